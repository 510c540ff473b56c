// Everything that must hold before a change is merged: lints, generated files, all tests. The last line counts the tests.
import { lint } from './lint.mjs';
import { setup } from './setup.mjs';
import { guard, say } from './task.mjs';
import { test } from './test.mjs';

await guard(async () => {
  await setup();
  const broken = await lint();
  const { passed, failed } = await test();
  if (broken > 0) say(`${broken} lint checks failed (see above)`);
  console.log(`${passed} passed, ${failed} failed`);
  return broken === 0 && failed === 0 ? 0 : 1;
});
