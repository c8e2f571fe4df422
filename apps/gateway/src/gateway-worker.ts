import cluster from 'node:cluster';

import { KeptPage, type StatusBoard, type Telemetry } from '#libs/observability';
import { Channel } from '#libs/service';

/** A worker of a gateway on several cores, as it sees itself and the process that started it (GatewayWorkers). */
export class GatewayWorker {
  private static joining: Promise<GatewayWorker> | undefined;
  private readonly kept = new KeptPage(async () => String(await this.primary.ask('page')));

  private constructor(
    private readonly primary: Channel,
    /** 1 for the first; a worker that takes the place of another has its number. */
    readonly number: number,
  ) {}

  /** The worker that this process is; undefined if it is none. */
  static async join(): Promise<GatewayWorker | undefined> {
    return cluster.isWorker ? (this.joining ??= this.atPrimary(new Channel(process))) : undefined;
  }

  private static async atPrimary(primary: Channel): Promise<GatewayWorker> {
    return new GatewayWorker(primary, Number(await primary.ask('number')));
  }

  /** Lets those see what this worker is doing who ask the process that started it. */
  show(board: StatusBoard, telemetry: Telemetry): void {
    telemetry.nameSeries({ worker: String(this.number) });
    this.primary.answer('status', () => board.look());
    this.primary.answer('page', () => telemetry.page());
  }

  /** Says that there is state to serve. Resolves when the port may be opened. */
  async loaded(): Promise<void> {
    await this.primary.ask('loaded');
  }

  async serving(url: string): Promise<void> {
    await this.primary.ask('serving', url);
  }

  /** The metrics of all workers. */
  page(maxAgeMs: number): Promise<string> {
    return this.kept.page(maxAgeMs);
  }
}
