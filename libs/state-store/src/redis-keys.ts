/**
 * The names of keys: those of the Go relay (protocol §5), a position beside each environment, and two of our own. Nothing
 * else in Redis is ours.
 */
export class RedisKeys {
  /** A set of the UUIDs of every environment that has a position. */
  readonly environments: string;
  readonly progress: string;
  private readonly ofEnvironment: RegExp;

  /**
   * @param prefix of every key
   * @param tagged whether the environment's UUID is a hash tag, so that its keys are on one node of a cluster
   */
  constructor(
    private readonly prefix: string,
    private readonly tagged: boolean,
  ) {
    this.environments = `${prefix}ff-relay-environments`;
    this.progress = `${prefix}ff-relay-progress`;
    const environment = tagged ? String.raw`\{(.+?)\}` : '(.+?)';
    this.ofEnvironment = new RegExp(
      `^env-${environment}-(${LISTS.join('|')}|position|${ITEMS}|shadow-.+)$`,
      's',
    );
  }

  of(environment: string, name: string): string {
    return `${this.prefix}env-${this.tagged ? `{${environment}}` : environment}-${name}`;
  }

  apiKey(hash: string): string {
    return `${this.prefix}${API_KEY}${hash}`;
  }

  get environmentPattern(): string {
    return `${this.literally}env-*`;
  }

  get apiKeyPattern(): string {
    return `${this.literally}${API_KEY}*`;
  }

  /** Which key of which environment it is; undefined for a key of others. */
  environmentKey(key: string): { environment: string; name: string } | undefined {
    const [, environment, name] = this.ofEnvironment.exec(key.slice(this.prefix.length)) ?? [];
    return environment && name ? { environment, name } : undefined;
  }

  /** The hash in a key that `apiKeyPattern` found. */
  hashIn(key: string): string {
    return key.slice(this.prefix.length + API_KEY.length);
  }

  private get literally(): string {
    return this.prefix.replaceAll(/[\\*?[\]]/g, String.raw`\$&`);
  }
}

/** The keys that every environment has, beside those of its flags and groups. */
export const LISTS = [
  'feature-configs',
  'feature-configs-latest',
  'segments',
  'segments-latest',
  'api-configs',
] as const;
export const flagName = (identifier: string) => `feature-config-${identifier}`;
export const segmentName = (identifier: string) => `segment-${identifier}`;
const ITEMS = '(?:feature-config|segment)-.+';

/** What SDK keys' hashes begin with, in keys and in the list of an environment. */
export const API_KEY = 'auth-key-';
