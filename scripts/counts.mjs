// Counts tests from what cargo and vitest print, so that a crash or a compile error can never look like a pass.

/** Sums cargo's `test result:` lines. A failure without such a line (compile error, signal) counts as one. */
export function cargoCounts(output, code) {
  const counts = { passed: 0, failed: 0 };
  for (const match of output.matchAll(/^test result: \w+\. (\d+) passed; (\d+) failed;/gm)) {
    counts.passed += Number(match[1]);
    counts.failed += Number(match[2]);
  }
  if (code !== 0 && counts.failed === 0) counts.failed = 1;
  return counts;
}

/** Reads vitest's JSON report. A file that does not load counts as one failure, and so does a report that is not there. */
export function vitestCounts(report, code) {
  const counts = { passed: report?.numPassedTests ?? 0, failed: report?.numFailedTests ?? 0 };
  for (const file of report?.testResults ?? []) {
    if (file.status === 'failed' && !file.assertionResults.some((test) => test.status === 'failed')) counts.failed += 1;
  }
  if (code !== 0 && counts.failed === 0) counts.failed = 1;
  return counts;
}

export function add(a, b) {
  return { passed: a.passed + b.passed, failed: a.failed + b.failed };
}
