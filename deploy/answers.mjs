/** `node answers.mjs <address>` ends with 0 if the address answers with 200, else with 1: for health checks. */
const [, , address] = process.argv;
fetch(address).then(
  ({ status }) => process.exit(status === 200 ? 0 : 1),
  () => process.exit(1),
);
