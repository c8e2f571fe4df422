/**
 * SDK_KEY=… node compare-relays.mjs http://one:7000 http://other:7000 [target]
 *
 * Signs in at two relays with the same SDK key, and says where they differ: in the versions of flags and target groups,
 * and in what they evaluate for a target. Ends with 0 if they agree.
 */
const [one, other, identifier = 'anna'] = process.argv.slice(2);
const apiKey = process.env.SDK_KEY;

async function read(relay) {
  const target = { identifier, name: identifier };
  const signedIn = await fetch(`${relay}/client/auth`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ apiKey, target }),
  });
  if (!signedIn.ok) throw new Error(`${relay} answered the sign-in with ${signedIn.status}`);
  const { authToken } = await signedIn.json();
  const { environment } = JSON.parse(Buffer.from(authToken.split('.')[1], 'base64url'));
  const get = async (path) => {
    const response = await fetch(`${relay}/client/env/${environment}/${path}`, {
      headers: { authorization: `Bearer ${authToken}` },
    });
    if (!response.ok) throw new Error(`${relay} answered ${path} with ${response.status}`);
    return response.json();
  };
  const flags = await get('feature-configs');
  const groups = await get('target-segments?rules=v2');
  const evaluations = await get(`target/${encodeURIComponent(identifier)}/evaluations`);
  return new Map([
    ...flags.map(({ feature, version }) => [`flag ${feature}, version`, version]),
    ...groups.map(({ identifier: group, version }) => [`target group ${group}, version`, version]),
    ...evaluations.map(({ flag, value }) => [`flag ${flag}, for ${identifier}`, value]),
  ]);
}

const [here, there] = await Promise.all([one, other].map(read));
const names = [...new Set([...here.keys(), ...there.keys()])];
const differing = names.filter((name) => here.get(name) !== there.get(name));
for (const name of differing) {
  console.log(
    `${name}: ${here.get(name) ?? 'nothing'} at ${one}, ${there.get(name) ?? 'nothing'} at ${other}`,
  );
}
console.log(`${names.length - differing.length} agree, ${differing.length} differ`);
process.exitCode = differing.length === 0 ? 0 : 1;
