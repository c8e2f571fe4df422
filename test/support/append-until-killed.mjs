/** Appends to the log in a folder without an end, and prints each append that was acknowledged. */
import { EmbeddedEventLog } from '#libs/event-log';

const [folder, run] = process.argv.slice(2);
const log = await EmbeddedEventLog.open(folder);
for (let i = 0; ; i++) {
  const subject = `ff.facts.v1.dev.flag.f${i % 100}`;
  const id = `${run}-${i}`;
  const append = log
    .append('FF_FACTS', { subject, id, body: id })
    .then(({ sequence }) => process.stdout.write(`${sequence} ${subject} ${id}\n`));
  // Some alone, some in a crowd that shares a flush.
  if (i % 7 === 0) await append;
}
