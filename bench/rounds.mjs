// Measurements that workers take in turns: their medians, their ratios to ours of the same round, and the tables of both.
import { say } from '../scripts/task.mjs';
import { machine } from './environment.mjs';
import { median } from './times.mjs';

/**
 * A measurement is `{ name, request, ms }`: what is asked, and the milliseconds in the answer. One without a request reads another number
 * from the answers to the one before. A worker is `{ label, worker, rounds?, takes? }`: how many rounds it takes part in, and in what.
 * Round 0 warms up, without measurements marked `long`.
 */
export async function takeTurns(workers, measurements, rounds) {
  const times = new Map(measurements.map(({ name }) => [name, workers.map(() => [])]));
  const equal = new Map();
  for (let round = 0; round <= rounds; round++) {
    say(`  round ${round} of ${rounds}`);
    let answers = [];
    for (const measurement of measurements) {
      if (round === 0 && measurement.long) continue;
      if (measurement.request !== undefined) answers = await askAll(workers, measurement, round);
      if (round === 0) continue;
      answers.forEach((answer, i) => answer && times.get(measurement.name)[i].push(measurement.ms(answer)));
      if (round === 1 && measurement.request !== undefined) equal.set(measurement.name, compare(answers, workers));
    }
  }
  return { times, equal };
}

async function askAll(workers, measurement, round) {
  const answers = [];
  for (const [i, { worker, rounds = Infinity, takes = () => true }] of workers.entries()) {
    const tooLate = round > rounds || (round === 0 && rounds !== Infinity);
    if (!tooLate && takes(measurement)) answers[i] = await worker.ask(measurement.request);
  }
  return answers;
}

/** How many of each peer's answers are ours, token for token. */
function compare(answers, workers) {
  const ours = answers[0]?.tokens;
  if (ours === undefined) return undefined;
  const counts = [];
  answers.forEach(({ tokens }, i) => {
    const count = tokens.filter((row, at) => `${row}` === `${ours[at]}`).length;
    if (i > 0) counts.push(`${workers[i].label} ${count} of ${ours.length}`);
  });
  return counts.join(', ');
}

/** The median ratio of two lists, round by round: what else runs on the machine then slows both. */
export function ratio(values, others) {
  const pairs = values.map((value, round) => value / others[round]).filter(Number.isFinite);
  return pairs.length === 0 ? undefined : median(pairs);
}

const show = (values) => (values.length === 0 ? '' : median(values).toFixed(median(values) < 100 ? 1 : 0));

/** A table of medians, and of how much longer each peer takes than the first worker. */
export function printTable(workers, measurements, { times, equal }) {
  const peers = workers
    .map(({ label, reference }, i) => ({ label, reference, i }))
    .filter(({ i, reference }) => i > 0 && !reference);
  const headers = [
    ...workers.map(({ label }) => `${label}, ms`),
    ...peers.map(({ label }) => `${label} / ${workers[0].label}`),
  ];
  console.log(`\n${machine()}; ${workers.map(({ label, worker }) => `${label}: ${worker.peer}`).join('; ')}\n`);
  console.log(`| | ${headers.join(' | ')} |\n|---|${'--:|'.repeat(headers.length)}`);
  for (const { name } of measurements) {
    const lists = times.get(name);
    const ratios = peers.map(({ i }) => ratio(lists[i], lists[0])?.toFixed(2) ?? '');
    console.log(`| ${[name, ...lists.map(show), ...ratios].join(' | ')} |`);
  }
  console.log('\nanswers equal to ours, token for token:');
  for (const [name, text] of equal) if (text) console.log(`  ${name}: ${text}`);
}
