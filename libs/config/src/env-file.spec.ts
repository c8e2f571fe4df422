import util from 'node:util';

import { describe, expect, it } from '@jest/globals';

import { type EnvFileLine, readEnvFile, RelayConfig, startedAs } from './index.js';

const SECRET = 's'.repeat(32);
const COMPLETE = `PROXY_KEY=30000000-0000-4000-8000-000000000001\nAUTH_SECRET=${SECRET}\n`;

/** The only line that there is something to say of, beside those that every file needs. */
function saidOf(line: string): EnvFileLine {
  const [said] = readEnvFile(`${line}\n${COMPLETE}`);
  return said!;
}

describe('A line of a Go relay’s env-file', () => {
  it.each([
    ['PORT=7000', 'kept', /port for SDKs/],
    ['METRIC_POST_DURATION=60', 'kept', /gathered/],
    ['METRIC_POST_DURATION=0', 'differs', /drops them/],
    ['READ_REPLICA=true', 'differs', /NATS_URL/],
    ['REDIS_DB=1', 'differs', /counts here/],
    ['TLS_ENABLED=true', 'kept', /HTTPS/],
    ['export LOG_LEVEL="debug"', 'kept', /log/],
    ['FLAG_POLL_INTERVAL=5', 'kept', /minutes/],
    ['REDIS_PASSWORD_FILE=/run/secrets/redis', 'kept', /password/],
    ['NATS_URL=nats://nats:4222', 'kept', /JetStream/],
    ['https_proxy=http://proxy:3128', 'renamed', /HTTPS_PROXY/],
    ['REDIS_ADDRESS=', 'kept', /the same as not set/],
    ['SDK_BASE_URL=https://config.ff.harness.io/api/1.0', 'renamed', /it is CLIENT_SERVICE here/],
    ['AND_RULES=true', 'kept', /AND rules/],
    ['HEARTBEAT_INTERVAL=60', 'none', /livez/],
    ['API_KEYS=a,b', 'none', /PROXY_KEY takes its place/],
    ['METRICS_SERVICE=https://events', 'none', /METRIC_SERVICE is meant/],
    ['NODE_EXTRA_CA_CERTS=/ca.pem', 'differs', /UPSTREAM_CA/],
    ['SOMETHING=else', 'unknown', /no setting/],
    ['PORT_FILE=/port', 'unknown', /no setting/],
    ['PORT=port', 'wrong', /PORT cannot be "port": set it to a port number/],
    ['SDK_EVENTS_URL=events', 'wrong', /METRIC_SERVICE cannot be "events"/],
    ['REDIS_PASSWORD=a#b', 'wrong', /single quotes/],
    ['REDIS_PASSWORD=#Xy12', 'wrong', /single quotes/],
    ['GATEWAY_WORKERS=4', 'wrong', /GATEWAY_WORKERS cannot be "4": set it to 1, or leave it out/],
    ['PROXY_KEY: abc', 'unread', /NAME=value/],
  ] as const)('is answered: %s', (line, meaning, says) => {
    expect(saidOf(line)).toMatchObject({ line: 1, meaning, says: expect.stringMatching(says) });
  });

  it.each(['PORT=7000 # the port', 'PORT= # none', "REDIS_PASSWORD='a#b'", "REDIS_PASSWORD= '#Xy12'"])(
    'may have what it has: %s',
    (line) => {
      expect(saidOf(line).meaning).not.toBe('wrong');
    },
  );

  it('with a secret that is too short says how SDKs stay signed in, and does not show it', () => {
    const said = readEnvFile('PROXY_KEY=key\nAUTH_SECRET=hush').find(({ name }) => name === 'AUTH_SECRET');
    expect(said).toMatchObject({ line: 2, meaning: 'wrong' });
    expect(said?.says).toMatch(/at least 32 random characters.*AUTH_SECRET_PREVIOUS/);
    expect(said?.says).not.toContain('hush');
  });
});

describe('An env-file', () => {
  it('is told of line by line, without comments and empty lines', () => {
    const file = `# of the relay\n\nPORT=1\n  # more\nPORT=2\r\n${COMPLETE}`;
    const lines = readEnvFile(file).filter(({ line }) => line !== undefined);
    expect(lines.map(({ line, name, meaning }) => [line, name, meaning])).toEqual([
      [3, 'PORT', 'none'],
      [5, 'PORT', 'kept'],
      [6, 'PROXY_KEY', 'kept'],
      [7, 'AUTH_SECRET', 'differs'],
    ]);
  });

  it('lacks what a relay cannot start without', () => {
    expect(readEnvFile('PORT=7000').filter(({ meaning }) => meaning === 'missing')).toEqual([
      { line: undefined, name: 'PROXY_KEY', meaning: 'missing', says: expect.stringContaining('upstream') },
      { line: undefined, name: 'AUTH_SECRET', meaning: 'missing', says: expect.stringContaining('openssl') },
    ]);
    expect(
      readEnvFile(`READ_REPLICA=true\nAUTH_SECRET_FILE=/secret\nREDIS_ADDRESS=redis:6379`).flatMap(
        ({ name, meaning }) => (meaning === 'missing' ? [name] : []),
      ),
    ).toEqual(['NATS_URL']);
  });

  it('that serves from a folder needs no proxy key', () => {
    const lines = readEnvFile('OFFLINE=true\nAUTH_SECRET_FILE=/secret');
    expect(lines.filter(({ meaning }) => meaning === 'missing')).toEqual([]);
  });

  it('that only writes a folder needs nothing to sign tokens with', () => {
    const lines = readEnvFile('GENERATE_OFFLINE_CONFIG=true\nPROXY_KEY=key');
    expect(lines.filter(({ meaning }) => meaning === 'missing')).toEqual([]);
  });

  it.each([
    ['PROXY_KEY_FILE=/key', 'PROXY_KEY', 'PROXY_KEY and PROXY_KEY_FILE are both set: leave one of them out'],
    ['TLS_ENABLED=true\nTLS_CERT=/cert.pem', 'TLS_ENABLED', 'TLS_ENABLED asks for TLS_CERT and TLS_KEY'],
    ['UPSTREAM_CERT=/cert.pem', 'UPSTREAM_CERT', 'UPSTREAM_CERT and UPSTREAM_KEY belong together'],
    ['OFFLINE=true\nGENERATE_OFFLINE_CONFIG=true', 'GENERATE_OFFLINE_CONFIG', 'nobody is called'],
  ])('is told what its lines cannot be together, as the start is: %s', (lines, name, says) => {
    const file = `${COMPLETE}${lines}\n`;
    const wrong = readEnvFile(file).filter(({ meaning }) => meaning === 'wrong');
    expect(wrong).toMatchObject([{ name, says: expect.stringContaining(says) }]);
    const environment = util.parseEnv(file);
    const { roles, required } = startedAs(environment);
    expect(() => new RelayConfig(environment, roles, undefined, required)).toThrow(wrong[0]?.says);
  });

  it('lacks nothing that a comment took away', () => {
    const lines = readEnvFile(`PROXY_KEY=key\nAUTH_SECRET=#${SECRET}`).filter(
      ({ name }) => name === 'AUTH_SECRET',
    );
    expect(lines).toMatchObject([{ line: 2, meaning: 'wrong' }]);
  });

  it('is told of what is not in it, and has another default here', () => {
    const defaults = (text: string) =>
      readEnvFile(text).flatMap(({ name, meaning }) => (meaning === 'default' ? [name] : []));
    expect(defaults(COMPLETE)).toEqual(['PORT', 'PROMETHEUS_PORT', 'AND_RULES']);
    expect(defaults('PORT=7000\nAND_RULES=false')).toEqual(['PROMETHEUS_PORT']);
  });

  it('with a quote that does not end says where, and what it takes in', () => {
    expect(readEnvFile(`DATA_DIR="/data\nPORT=7001\n${COMPLETE}X="`)).toEqual(
      expect.arrayContaining([expect.objectContaining({ line: 1, name: 'DATA_DIR', meaning: 'wrong' })]),
    );
  });
});
