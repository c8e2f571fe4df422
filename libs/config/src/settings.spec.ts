import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { z } from 'zod';

import {
  baseUrl,
  headerText,
  logFormat,
  logLevel,
  port,
  readSettings,
  SettingsError,
  wholeNumber,
  yesOrNo,
} from './index.js';

const note = { description: 'what it does', expected: 'something else' };
const read = (schema: z.ZodType, text: string | undefined): unknown =>
  readSettings({ IT: schema.meta(note) }, { IT: text }).IT;

function faultsOf(shape: Record<string, z.ZodType>, environment: NodeJS.ProcessEnv): readonly string[] {
  try {
    readSettings(shape, environment);
  } catch (error) {
    if (error instanceof SettingsError) return error.faults;
    throw error;
  }
  return [];
}

describe('Settings', () => {
  it('that cannot be used are named all at once, each with what to write', () => {
    const shape = {
      NAME: z.string().meta({ description: 'who it is', expected: 'a name' }),
      FINE: z.string().meta(note),
      PORT: port(7000, 'the port for SDKs'),
    };
    const environment = { PORT: 'seven', FINE: 'fine' };
    expect(faultsOf(shape, environment)).toEqual([
      'NAME is not set: set it to a name (who it is)',
      'PORT cannot be "seven": set it to a port number from 1 to 65535 (0 takes a free one) (the port for SDKs)',
    ]);
    expect(() => readSettings(shape, environment)).toThrow(
      /^These settings need a change:\n {2}- NAME .*\n {2}- PORT .*$/,
    );
  });

  it.each([[undefined], [''], ['  '], ['\n']])('are not set when their text is %j', (text) => {
    expect(read(z.string().default('standard'), text)).toBe('standard');
    expect(faultsOf({ IT: z.string().meta(note) }, { IT: text })).toEqual([
      'IT is not set: set it to something else (what it does)',
    ]);
  });

  it('are read without the space around them', () => {
    expect(read(z.string(), ' a b \n')).toBe('a b');
  });

  it('that are secret are not shown, wrong as they may be', () => {
    const shape = {
      KEY: z
        .string()
        .min(32)
        .meta({ ...note, secret: true }),
    };
    expect(faultsOf(shape, { KEY: 'hush-hush' })).toEqual([
      'KEY cannot be used: set it to something else (what it does)',
    ]);
  });

  it('that are not asked for are not read', () => {
    expect(readSettings({ A: z.string().meta(note) }, { A: 'a', B: 'b' })).toEqual({ A: 'a' });
  });
});

describe('A setting of yes or no', () => {
  it.each([['true'], ['True'], ['TRUE'], ['t'], ['T'], ['1']])('is yes by %s', (text) => {
    expect(read(yesOrNo(), text)).toBe(true);
  });

  it.each([['false'], ['False'], ['f'], ['F'], ['0']])('is no by %s', (text) => {
    expect(read(yesOrNo(), text)).toBe(false);
  });

  it.each([['yes'], ['2'], ['on'], ['truee']])('cannot be %s', (text) => {
    expect(() => read(yesOrNo(), text)).toThrow(SettingsError);
  });
});

describe('A whole number', () => {
  it('may be the least and the most', () => {
    expect(read(wholeNumber(1, 60), '1')).toBe(1);
    expect(read(wholeNumber(1, 60), '60')).toBe(60);
  });

  it.each([['0'], ['61'], ['1.5'], ['-1'], ['1e1'], ['0x10'], ['60s'], ['٣']])(
    'from 1 to 60 cannot be %s',
    (text) => {
      expect(() => read(wholeNumber(1, 60), text)).toThrow(SettingsError);
    },
  );
});

describe('A port', () => {
  it('has its own default', () => {
    expect(readSettings({ PORT: port(7000, 'for SDKs') }, {}).PORT).toBe(7000);
  });

  it.each([['0'], ['1'], ['65535']])('may be %s', (text) => {
    expect(readSettings({ PORT: port(7000, 'for SDKs') }, { PORT: text }).PORT).toBe(Number(text));
  });

  it.each([['65536'], ['-1'], [':7000']])('cannot be %s', (text) => {
    expect(() => readSettings({ PORT: port(7000, 'for SDKs') }, { PORT: text })).toThrow(SettingsError);
  });
});

describe('A base URL', () => {
  it.each([
    ['https://config.ff.harness.io/api/1.0', 'https://config.ff.harness.io/api/1.0'],
    ['https://config.ff.harness.io/api/1.0/', 'https://config.ff.harness.io/api/1.0'],
    ['http://localhost:7100//', 'http://localhost:7100'],
  ])('%s has paths appended to %s', (text, base) => {
    expect(read(baseUrl(), text)).toBe(base);
  });

  it.each([
    ['localhost:7100'],
    ['ftp://host'],
    ['http://'],
    ['config.ff.harness.io'],
    ['https://user:password@host/api'],
    ['https://host/api?key=1'],
    ['https://host/api#top'],
  ])('cannot be %s', (text) => {
    expect(() => read(baseUrl(), text)).toThrow(SettingsError);
  });
});

describe('A secret for a header', () => {
  it.each([['two words'], ['two\nlines'], ['schlüssel'], ['a–b']])('cannot be %j', (text) => {
    expect(() => read(headerText(), text)).toThrow(SettingsError);
  });
});

describe('The settings of the log', () => {
  it.each([
    ['debug', 'DEBUG'],
    ['Warn', 'WARN'],
    ['ERROR', 'ERROR'],
    [undefined, 'INFO'],
  ])('take the level %s as %s', (text, level) => {
    expect(readSettings({ LOG_LEVEL: logLevel() }, { LOG_LEVEL: text }).LOG_LEVEL).toBe(level);
  });

  it('know no other levels and formats', () => {
    const shape = { LOG_LEVEL: logLevel(), LOG_FORMAT: logFormat() };
    expect(faultsOf(shape, { LOG_LEVEL: 'loud', LOG_FORMAT: 'xml' })).toEqual([
      'LOG_LEVEL cannot be "loud": set it to DEBUG, INFO, WARN or ERROR (the least severe lines to log)',
      'LOG_FORMAT cannot be "xml": set it to text or json (how log lines are written)',
    ]);
  });
});

describe('A secret in a file', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'ff-relay-settings-'));
  });
  afterEach(() => rm(folder, { recursive: true }));
  const shape = {
    KEY: z.string().min(3).meta({ description: 'a key', expected: 'a longer one', secret: true }),
    NAME: z.string().optional().meta(note),
  };
  const file = async (text: string) => {
    await writeFile(join(folder, 'key'), text);
    return join(folder, 'key');
  };

  it('is read without the space around it', async () => {
    expect(readSettings(shape, { KEY_FILE: await file(' from a file\n') }).KEY).toBe('from a file');
  });

  it('is checked like any other, and not shown', async () => {
    expect(faultsOf(shape, { KEY_FILE: await file('ab') })).toEqual([
      'KEY cannot be used: set it to a longer one (a key)',
    ]);
  });

  it('that is not there, or empty, is told of together with all other faults', async () => {
    const missing = join(folder, 'missing');
    expect(faultsOf(shape, { KEY_FILE: missing })).toEqual([
      expect.stringMatching(/^KEY_FILE: ENOENT.*missing/),
    ]);
    expect(faultsOf(shape, { KEY_FILE: await file('\n') })).toEqual([
      expect.stringMatching(/^KEY_FILE: .* is empty$/),
    ]);
  });

  it('and one that is set are one too many', async () => {
    expect(faultsOf(shape, { KEY: 'abc', KEY_FILE: await file('abc') })).toEqual([
      'KEY and KEY_FILE are both set: leave one of them out',
    ]);
  });

  it('is looked for only where the setting is a secret', () => {
    expect(readSettings(shape, { KEY: 'abc', NAME_FILE: '/nowhere' }).NAME).toBeUndefined();
  });
});
