export { factsIn, foldLog, foldOn, type LoggedFact, LogFold, ofEnvironments } from './log-fold.js';
export { rebuild, type Rebuilt, StoreInUse } from './rebuild.js';
