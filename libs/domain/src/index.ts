export * from './entities.js';
export * from './environment.js';
export * from './facts.js';
export * from './merge.js';
export * from './messages.js';
export * from './metrics.js';
export * from './notices.js';
export * from './reconcile.js';
