export { comparedSince } from './compared.js';
export { factsIn, foldLog, foldOn, leadOn, type LoggedFact, LogFold } from './log-fold.js';
export { type EntityName, foldUntil, type Moment, type Past } from './past.js';
export { statesIn } from './states-in.js';
export { type Again, compare, type Comparison, rebuild, type Rebuilt, StoreInUse } from './rebuild.js';
