import type { Moment } from '#libs/projection';

const EXPECTED =
  'a position is a whole number; a time is written 2026-11-20T12:00Z or with an offset, 2026-11-20T14:00+02:00; ' +
  'a date, 2026-11-20, is its first moment in UTC';
const DATE = String.raw`(\d{4}-\d{2}-\d{2})`;
const TIME = String.raw`T([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,3})?)?(Z|[+-]\d{2}:\d{2})`;
const DATE_OR_TIME = new RegExp(`^${DATE}(${TIME})?$`);

/** The moment that a person wrote. Throws an Error that says what to write. */
export function momentIn(text: string, now: number): Moment {
  if (/^\d{1,15}$/.test(text)) return { sequence: Number(text) };
  const [, date] = DATE_OR_TIME.exec(text) ?? [];
  const time = Date.parse(text);
  // A 30th of February would be taken for a day in March.
  if (!date || Number.isNaN(time) || new Date(date).toISOString().slice(0, 10) !== date)
    throw new Error(EXPECTED);
  if (time > now) throw new Error(`that time is still to come; ${EXPECTED}`);
  return { time };
}
