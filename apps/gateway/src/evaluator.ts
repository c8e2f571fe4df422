import { Logger } from '@nestjs/common';

import type { EnvironmentState } from '#libs/domain';
import { type Answer, isAnswered, Ruleset, type Target } from '#libs/evaluation';

import type { EnvironmentViews } from './environment-views.js';
import type { GatewayTelemetry } from './gateway-telemetry.js';

/**
 * Evaluates the flags of environments. An environment is compiled when it is first asked for, and what a change touches
 * when it is next asked for. A flag that serves no variation is counted each time, and said in the log once.
 */
export class Evaluator {
  private readonly logger = new Logger(Evaluator.name);
  /** The newest of each environment. */
  private readonly compiled = new Map<
    string,
    { readonly state: EnvironmentState; readonly rules: Ruleset }
  >();
  /** An answer lives as long as its flag is not changed. */
  private readonly told = new WeakSet<Answer>();

  constructor(
    private readonly views: Pick<EnvironmentViews, 'environment'>,
    private readonly telemetry: Pick<GatewayTelemetry, 'unanswerable'>,
  ) {}

  /** @returns undefined if there is no such flag */
  evaluate(state: EnvironmentState, flag: string, target: Target): Answer | undefined {
    const answer = this.rulesOf(state).evaluate(flag, target);
    if (answer) this.lookAt(state, answer);
    return answer;
  }

  /** Every flag, by identifier. */
  evaluateAll(state: EnvironmentState, target: Target): readonly Answer[] {
    const answers = this.rulesOf(state).evaluateAll(target);
    for (const answer of answers) this.lookAt(state, answer);
    return answers;
  }

  private rulesOf(state: EnvironmentState): Ruleset {
    const known = this.compiled.get(state.id);
    if (known?.state === state) return known.rules;
    if (!known) this.forgetWhatIsGone();
    const rules = Ruleset.of(state, known?.rules);
    this.compiled.set(state.id, { state, rules });
    return rules;
  }

  private forgetWhatIsGone(): void {
    for (const id of this.compiled.keys()) if (!this.views.environment(id)) this.compiled.delete(id);
  }

  private lookAt({ id }: EnvironmentState, answer: Answer): void {
    if (isAnswered(answer)) return;
    this.telemetry.unanswerable();
    if (this.told.has(answer)) return;
    this.told.add(answer);
    this.logger.warn(
      `Flag ${answer.flag} of ${id} has no value for some targets: ${answer.fault}. They get their defaults; correct the flag upstream`,
    );
  }
}
