import { OFREPWebProvider } from '@openfeature/ofrep-web-provider';
import { OpenFeature } from '@openfeature/web-sdk';

/** A client whose flags are those of the target, looked at again every half a minute. */
export async function startFlags(relay, sdkKey, target, pollInterval = 30_000) {
  await OpenFeature.setContext(target);
  await OpenFeature.setProviderAndWait(
    new OFREPWebProvider({
      baseUrl: relay,
      headers: [['Authorization', `Bearer ${sdkKey}`]],
      changeDetection: 'polling',
      pollInterval,
    }),
  );
  return OpenFeature.getClient();
}
