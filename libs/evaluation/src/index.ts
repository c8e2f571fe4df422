export {
  type Answer,
  type Evaluation,
  isAnswered,
  type Reason,
  Ruleset,
  type Unanswerable,
} from './ruleset.js';
export type { Target } from './target.js';
