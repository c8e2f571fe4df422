import type { SignedInTarget } from '#libs/saas-client';

import { RecentlyUsed } from './recently-used.js';

const MOST_TARGETS = 50_000;
const MOST_CHARACTERS = 16 * 1024 * 1024;

/**
 * The targets that SDKs signed in with, for those that later ask for evaluations and do not say again who they are:
 * browsers leave out a target that is too large for a header. Bounded, so what was not used for longest is forgotten; an
 * evaluation is then made for the identifier alone.
 */
export class RememberedTargets {
  /** As text: what an object takes of memory has no bound that could be counted. */
  private readonly targets = new RecentlyUsed<string>(MOST_TARGETS, MOST_CHARACTERS);

  remember(environment: string, target: SignedInTarget): void {
    const [name, text] = [nameOf(environment, target.identifier), JSON.stringify(target)];
    this.targets.set(name, text, name.length + text.length);
  }

  target(environment: string, identifier: string): SignedInTarget | undefined {
    const text = this.targets.get(nameOf(environment, identifier));
    return text === undefined ? undefined : (JSON.parse(text) as SignedInTarget);
  }
}

function nameOf(environment: string, identifier: string): string {
  return `${environment}/${identifier}`;
}
