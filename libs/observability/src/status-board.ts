import type { Telemetry } from './telemetry.js';

/** What a part of a process says about itself. */
export interface PartStatus extends Record<string, unknown> {
  /** Whether it does what it is there for, or stands by to do it. */
  readonly ready: boolean;
  /** Why not, if there is something to say about it. */
  readonly notReadyBecause?: string | undefined;
}

/** What the parts of a process say about themselves, for whoever looks. */
export class StatusBoard {
  private readonly parts = new Map<string, () => PartStatus>();

  /** @param look is called whenever somebody asks, so it must be quick */
  show(part: string, look: () => PartStatus): void {
    this.parts.set(part, look);
  }

  /** Every part, by its name. */
  look(): Record<string, PartStatus> {
    return Object.fromEntries([...this.parts].map(([part, look]) => [part, look()]));
  }

  /** Whether each part is ready, for those who watch and do not ask. */
  showReady(telemetry: Telemetry): void {
    telemetry.gauge(
      'ff_relay_ready',
      '1 while a part does its work, or stands by to do it',
      ['part'],
      (set) => {
        for (const [part, { ready }] of Object.entries(this.look())) set(Number(ready), { part });
      },
    );
  }
}
