/** The import directions of docs/architecture.md: apps → libs → domain, and no circles. */
export default {
  forbidden: [
    { name: 'no-circles', severity: 'error', from: {}, to: { circular: true } },
    {
      name: 'libs-do-not-know-apps',
      severity: 'error',
      from: { path: '^libs/' },
      to: { path: '^apps/' },
    },
    {
      name: 'only-the-relay-composes-apps',
      comment:
        'An app takes nothing from another app; apps/relay takes their modules to run them in one process.',
      severity: 'error',
      from: { path: '^apps/([^/]+)/', pathNot: '^apps/relay/' },
      to: { path: '^apps/', pathNot: '^apps/$1/' },
    },
    {
      name: 'the-relay-takes-modules-only',
      comment: 'And the server that they run in.',
      severity: 'error',
      from: { path: '^apps/relay/' },
      to: {
        path: '^apps/',
        pathNot: ['^apps/relay/', '\\.module\\.ts$', '^apps/gateway/src/serve-gateway\\.ts$'],
      },
    },
    {
      name: 'libs-are-entered-by-their-front-door',
      severity: 'error',
      from: { path: '^(apps|libs)/([^/]+)/' },
      to: {
        path: '^libs/',
        pathNot: ['^libs/[^/]+/src/index\\.ts$', '^libs/domain/src/builders\\.suite\\.ts$', '^$1/$2/'],
      },
    },
    {
      name: 'the-control-plane-shares-only-the-domain',
      comment:
        'It stands in for the SaaS: what it knows of the relay would be knowledge that the SaaS does not have.',
      severity: 'error',
      from: { path: '^apps/control-plane/' },
      to: { path: '^libs/', pathNot: '^libs/(domain|config|observability|service)/' },
    },
    {
      name: 'pure-libs-use-nothing',
      comment:
        'domain and evaluation are plain TypeScript: no Nest, no rxjs, no IO. re2js is pure computation, as a JavaScript engine would do it.',
      severity: 'error',
      from: { path: '^libs/(domain|evaluation)/', pathNot: '\\.spec\\.ts$' },
      to: { pathNot: ['^libs/(domain|evaluation)/', '^node_modules/re2js/'] },
    },
    {
      name: 'nats-in-one-file',
      severity: 'error',
      from: { path: '^(apps|libs)/', pathNot: '^libs/event-log/src/jetstream-event-log\\.(int-spec\\.)?ts$' },
      to: { path: 'node_modules/@nats-io/' },
    },
    {
      name: 'redis-in-one-file',
      severity: 'error',
      from: { path: '^(apps|libs)/', pathNot: '^libs/state-store/src/redis-state-store\\.(int-spec\\.)?ts$' },
      to: { path: 'node_modules/ioredis/' },
    },
    {
      name: 'tests-are-not-imported',
      severity: 'error',
      from: { path: '^(apps|libs)/', pathNot: '\\.(spec|int-spec|suite)\\.ts$' },
      to: { path: ['\\.(spec|int-spec|suite|e2e)\\.ts$', '^test/'] },
    },
  ],
  options: {
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: { conditionNames: ['types', 'import', 'default'], exportsFields: ['exports'] },
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '^dist/' },
  },
};
