import { OFREPProvider } from '@openfeature/ofrep-provider';
import { OpenFeature } from '@openfeature/server-sdk';

await OpenFeature.setProviderAndWait(
  new OFREPProvider({
    baseUrl: process.env.RELAY_URL ?? 'http://localhost:7000',
    headers: [['X-API-Key', '20000000-0000-4000-8000-000000000001']],
  }),
);
const client = OpenFeature.getClient();

const ada = { targetingKey: 'ada', name: 'Ada', plan: 'gold' };
console.log('dark-mode is', await client.getBooleanValue('dark-mode', false, ada));
const banner = await client.getStringDetails('banner-text', 'Welcome', ada);
console.log(`banner-text is "${banner.value}": variant ${banner.variant}, by ${banner.reason}`);
