import { OFREPWebProvider } from '@openfeature/ofrep-web-provider';
import { OpenFeature } from '@openfeature/web-sdk';

/** A client whose flags are those of the target, and change when they are changed. */
export async function startFlags(relay, sdkKey, target) {
  await OpenFeature.setContext(target);
  await OpenFeature.setProviderAndWait(
    new OFREPWebProvider({
      baseUrl: relay,
      headers: [['Authorization', `Bearer ${sdkKey}`]],
      // Only for as long as the relay's event stream cannot be had.
      pollInterval: 30_000,
    }),
  );
  return OpenFeature.getClient();
}
