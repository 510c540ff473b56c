import { MlxError } from './errors.js';

/** Edit distance (insert, delete, replace, swap of neighbours), for "did you mean". */
export function editDistance(a: string, b: string): number {
  const rows: number[][] = [Array.from({ length: b.length + 1 }, (_, j) => j)];
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let best = Math.min(rows[i - 1]![j]! + 1, row[j - 1]! + 1, rows[i - 1]![j - 1]! + (same ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        best = Math.min(best, rows[i - 2]![j - 2]! + 1);
      row.push(best);
    }
    rows.push(row);
  }
  return rows[a.length]![b.length]!;
}

const squash = (name: string): string => name.replace(/[-_]/g, '').toLowerCase();

/** Whether two names begin alike for at least four letters and more than half of each, as singular and plural do. */
function beginAlike(a: string, b: string): boolean {
  let same = 0;
  while (same < a.length && a[same] === b[same]) same++;
  return same >= 4 && 2 * same > Math.max(a.length, b.length);
}

/** The known name closest to `name`, or the only one that begins like it; undefined when there is neither. Python's snake_case spelling counts as equal. */
export function nearestName(name: string, known: Iterable<string>): string | undefined {
  const wanted = squash(name);
  const names = [...known];
  let best: { name: string; distance: number } | undefined;
  for (const candidate of names) {
    const distance = editDistance(wanted, squash(candidate));
    if (best === undefined || distance < best.distance) best = { name: candidate, distance };
  }
  if (best !== undefined && best.distance <= Math.max(2, Math.floor(wanted.length / 3))) return best.name;
  const alike = names.filter((candidate) => beginAlike(wanted, squash(candidate)));
  return alike.length === 1 ? alike[0] : undefined;
}

/** "unknown option 'x' of generate(): did you mean 'y'?" */
export function unknownNameMessage(name: string, known: Iterable<string>, where: string): string {
  const names = [...known];
  const near = nearestName(name, names);
  const hint = near === undefined ? `known names are ${names.toSorted().join(', ')}` : `did you mean '${near}'?`;
  return `unknown option '${name}' of ${where}: ${hint}`;
}

/** Throws ERR_MLX_CONFIG for the keys of `options` that are not in `known`. */
export function rejectUnknownKeys(options: object, known: readonly string[], where: string): void {
  const problems = Object.keys(options)
    .filter((key) => !known.includes(key))
    .map((key) => unknownNameMessage(key, known, where));
  if (problems.length > 0) throw new MlxError('ERR_MLX_CONFIG', problems.join('\n'));
}
