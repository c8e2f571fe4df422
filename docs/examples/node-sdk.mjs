import { Client, Event } from '@harnessio/ff-nodejs-server-sdk';

const relay = process.env.RELAY_URL ?? 'http://localhost:7000';
const client = new Client('20000000-0000-4000-8000-000000000001', {
  baseUrl: relay,
  eventsUrl: relay,
  logger: { ...console, trace() {}, debug() {}, info() {} },
});
await client.waitForInitialization();

const target = { identifier: 'anna', name: 'Anna', attributes: {} };
let shown;
const show = async () => {
  const value = await client.boolVariation('dark-mode', target, false);
  if (value !== shown) console.log('dark-mode is', (shown = value));
};
await show();
client.on(Event.CHANGED, () => void show());
