import { isIPv4 } from 'node:net';

import {
  logFormat,
  logLevel,
  port,
  readSettings,
  type SettingNote,
  wholeNumber,
  yesOrNo,
} from '#libs/config';
import { z } from 'zod';

/** The control plane's settings, by environment variable. */
export const controlPlaneSettings = (environment: NodeJS.ProcessEnv) => ({
  CONTROL_PLANE_PORT: port(7100, 'the port of the client API, the admin API and the page'),
  CONTROL_PLANE_HOST: z
    .string()
    .default('127.0.0.1')
    // Without a token whoever reaches the admin API may use it, so nobody but this machine may reach it.
    .refine(
      (host) => isLoopback(host) || (environment['ADMIN_TOKEN'] ?? environment['ADMIN_TOKEN_FILE'])?.trim(),
    )
    .meta({
      description: 'the address to listen on',
      expected: '127.0.0.1, or set ADMIN_TOKEN too and then to any address of this machine (0.0.0.0 for all)',
    } satisfies SettingNote),
  DATA_DIR: z
    .string()
    .default('./data')
    .meta({
      description: 'the folder of control-plane.sqlite',
      expected: 'a folder that this process may write to',
      type: 'folder',
    } satisfies SettingNote),
  DEMO_DATA: yesOrNo()
    .default(true)
    .meta({
      description:
        'fill a new DATA_DIR with the demo, whose keys are known to everybody; false leaves it empty',
      expected: 'true or false',
    } satisfies SettingNote),
  ADMIN_TOKEN: z
    .string()
    .regex(/^[\x21-\x7e]{16,1024}$/)
    .optional()
    .meta({
      description: 'what the admin API and the page ask for, in the header x-api-key',
      expected: '16 to 1024 random letters and digits, for example the output of: openssl rand -hex 32',
      secret: true,
    } satisfies SettingNote),
  LOG_LEVEL: logLevel(),
  LOG_FORMAT: logFormat(),
  SHUTDOWN_GRACE: wholeNumber(0, 86_400)
    .default(10)
    .meta({
      description: 'seconds that running requests and streams have to end after SIGTERM',
      expected: 'a whole number of seconds from 0 to 86400',
      unit: 'seconds',
    } satisfies SettingNote),
});

/** The validated settings of the control plane. Nothing else reads the environment. */
export class ControlPlaneConfig {
  readonly port: number;
  readonly host: string;
  readonly dataDir: string;
  /** Whether a new registry begins with the demo. */
  readonly demoData: boolean;
  /** Undefined: whoever is on this machine may use the admin API. */
  readonly adminToken: string | undefined;
  readonly logLevel: 'DEBUG' | 'INFO' | 'WARN' | 'ERROR';
  readonly logFormat: 'text' | 'json';
  readonly shutdownGraceMs: number;

  /** Throws SettingsError with every fault. */
  constructor(environment: NodeJS.ProcessEnv) {
    const read = readSettings(controlPlaneSettings(environment), environment);
    this.port = read.CONTROL_PLANE_PORT;
    this.host = read.CONTROL_PLANE_HOST;
    this.dataDir = read.DATA_DIR;
    this.demoData = read.DEMO_DATA;
    this.adminToken = read.ADMIN_TOKEN;
    this.logLevel = read.LOG_LEVEL;
    this.logFormat = read.LOG_FORMAT;
    this.shutdownGraceMs = read.SHUTDOWN_GRACE * 1000;
  }
}

/** Whether a host name or address, without brackets, can only mean this machine. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIPv4(host) && host.startsWith('127.'));
}
