import type { Clause, Flag, Segment } from '#libs/domain';

import { type Feature, hashOf, newFlag, type Seed } from './flag-registry.js';

const ACCOUNT = 'demo';
const BETA = 'beta-testers';

/** Fixed, so that the examples in the guides can be copied. */
const ENVIRONMENTS = [
  {
    id: '10000000-0000-4000-8000-000000000001',
    identifier: 'dev',
    name: 'Development',
    type: 'PreProduction',
    sdkKeys: {
      server: '20000000-0000-4000-8000-000000000001',
      client: '20000000-0000-4000-8000-000000000002',
    },
  },
  {
    id: '10000000-0000-4000-8000-000000000002',
    identifier: 'prod',
    name: 'Production',
    type: 'Production',
    sdkKeys: {
      server: '20000000-0000-4000-8000-000000000003',
      client: '20000000-0000-4000-8000-000000000004',
    },
  },
] as const;
const PROXY_KEY = '30000000-0000-4000-8000-000000000001';

const common = { permanent: false, owner: 'demo', tags: [] };

const darkMode: Feature = {
  ...common,
  identifier: 'dark-mode',
  name: 'Dark mode',
  description: 'Offers the dark theme in the account menu',
  kind: 'boolean',
  variations: [
    { identifier: 'true', name: 'True', value: 'true' },
    { identifier: 'false', name: 'False', value: 'false' },
  ],
  defaultOnVariation: 'true',
  defaultOffVariation: 'false',
  prerequisites: [],
};

const bannerText: Feature = {
  ...common,
  identifier: 'banner-text',
  name: 'Banner text',
  description: 'The line at the top of the shop',
  kind: 'string',
  variations: [
    { identifier: 'welcome', name: 'Welcome', value: 'Welcome to the shop!' },
    { identifier: 'sale', name: 'Autumn sale', value: 'Autumn sale: 20 % off until Sunday' },
    { identifier: 'maintenance', name: 'Maintenance', value: 'Orders pause tonight from 22:00 to 23:00' },
  ],
  defaultOnVariation: 'sale',
  defaultOffVariation: 'welcome',
  prerequisites: [],
};

const pageSize: Feature = {
  ...common,
  identifier: 'page-size',
  name: 'Page size',
  description: 'Products on one page of search results',
  kind: 'int',
  variations: [
    { identifier: 'small', name: 'Small', value: '10' },
    { identifier: 'medium', name: 'Medium', value: '25' },
    { identifier: 'large', name: 'Large', value: '50' },
  ],
  defaultOnVariation: 'medium',
  defaultOffVariation: 'small',
  prerequisites: [],
};

const theme: Feature = {
  ...common,
  identifier: 'theme',
  name: 'Theme',
  description: 'Colours and corners of the new shop; needs dark mode',
  kind: 'json',
  variations: [
    { identifier: 'classic', name: 'Classic', value: '{"accent":"#2563eb","radius":4}' },
    {
      identifier: 'midnight',
      name: 'Midnight',
      value: '{"accent":"#a78bfa","radius":12,"background":"#0b1020"}',
    },
  ],
  defaultOnVariation: 'midnight',
  defaultOffVariation: 'classic',
  prerequisites: [{ feature: 'dark-mode', variations: ['true'] }],
};

const isBetaTester: Clause = {
  id: 'beta-testers-clause',
  attribute: '',
  op: 'segmentMatch',
  negate: false,
  values: [BETA],
};

const forBetaTesters = (variation: string) => ({
  ruleId: 'beta-testers-first',
  priority: 1,
  clauses: [isBetaTester],
  serve: { variation },
});

/** What differs from a new flag, by environment. */
const SETTINGS: Record<'dev' | 'prod', readonly [Feature, Partial<Flag>][]> = {
  dev: [
    [darkMode, { state: 'on' }],
    [
      bannerText,
      {
        state: 'on',
        variationToTargetMap: [
          { variation: 'maintenance', targets: [{ identifier: 'ada', name: 'Ada' }], targetSegments: [] },
        ],
      },
    ],
    [
      pageSize,
      {
        state: 'on',
        defaultServe: { distribution: split(['small', 25], ['medium', 50], ['large', 25]) },
        rules: [forBetaTesters('large')],
      },
    ],
    [theme, { state: 'on' }],
  ],
  prod: [
    [darkMode, { state: 'on', defaultServe: { variation: 'false' }, rules: [forBetaTesters('true')] }],
    [bannerText, { state: 'off' }],
    [pageSize, { state: 'on', defaultServe: { distribution: split(['medium', 90], ['large', 10]) } }],
    [theme, { state: 'off', rules: [forBetaTesters('midnight')] }],
  ],
};

function split(...parts: [variation: string, weight: number][]) {
  return { bucketBy: 'identifier', variations: parts.map(([variation, weight]) => ({ variation, weight })) };
}

function betaTesters(environment: string, now: number): Segment & Record<string, unknown> {
  const clause: Clause = {
    id: 'staff-clause',
    attribute: 'email',
    op: 'ends_with',
    negate: false,
    values: ['@example.com'],
  };
  const person = (identifier: string, name: string) => ({
    identifier,
    name,
    account: ACCOUNT,
    org: ACCOUNT,
    project: ACCOUNT,
    environment,
  });
  return {
    identifier: BETA,
    name: 'Beta testers',
    environment,
    tags: [],
    included: [person('ada', 'Ada'), person('grace', 'Grace')],
    excluded: [],
    rules: [clause],
    servingRules: [{ ruleId: 'staff', priority: 1, clauses: [clause] }],
    createdAt: now,
    modifiedAt: now,
    version: 1,
  };
}

/** A small shop with two environments in different states. `now` in ms since the epoch. */
export function demoData(now: number): Seed {
  return {
    account: ACCOUNT,
    organization: ACCOUNT,
    project: { identifier: ACCOUNT, name: 'Demo' },
    proxyKey: { identifier: ACCOUNT, hash: hashOf(PROXY_KEY) },
    features: [darkMode, bannerText, pageSize, theme],
    environments: ENVIRONMENTS.map(({ id, identifier, name, type, sdkKeys }) => ({
      id,
      identifier,
      name,
      type,
      sdkKeys: [
        { identifier: 'server', name: 'Server', type: 'Server', hash: hashOf(sdkKeys.server) },
        { identifier: 'client', name: 'Client', type: 'Client', hash: hashOf(sdkKeys.client) },
      ],
      flags: SETTINGS[identifier].map(([feature, settings]) =>
        Object.assign(newFlag(feature, ACCOUNT, identifier), settings),
      ),
      segments: [betaTesters(identifier, now)],
    })),
  };
}
