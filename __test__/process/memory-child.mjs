// Runs one loop that makes many arrays and writes how many megabytes the process grew at most.
// Argument: the name of the loop.
import process from 'node:process';
import { setImmediate as tick } from 'node:timers/promises';
import { mx, tidy } from '../../dist/lib/index.js';

const megabyte = new Float32Array(262_144);
const one = mx.array(1.5);

const make = (i) => {
  // Copied from JavaScript, and computed.
  if (i % 2 === 0) mx.array(megabyte);
  else mx.add(mx.ones([1]), mx.zeros([262_144])).eval();
};

const loops = {
  /** 10,000 arrays of a megabyte and more, left to the garbage collector. */
  async yielding(sample) {
    for (let i = 0; i < 10_000; i++) {
      make(i);
      sample(i);
      await tick();
    }
  },
  /** The same without coming back to the event loop. */
  async tidy(sample) {
    for (let i = 0; i < 10_000; i++) {
      tidy(() => make(i));
      sample(i);
    }
  },
  /** The same across an await. */
  async asyncTidy(sample) {
    for (let i = 0; i < 10_000; i++) {
      await tidy(async () => {
        make(i);
        await Promise.resolve();
        make(i + 1);
      });
      sample(i);
    }
  },
  /** A million operations that are never computed. */
  async lazy(sample) {
    for (let i = 0; i < 1_000_000; i++) {
      one.add(i);
      if (i % 1000 === 999) {
        sample(i);
        await tick();
      }
    }
  },
  async lazyTidy(sample) {
    for (let i = 0; i < 1000; i++) {
      tidy(() => {
        for (let j = 0; j < 1000; j++) one.add(j);
      });
      sample(i);
    }
  },
};

for (let i = 0; i < 4; i++) tidy(() => make(i));
const start = process.memoryUsage.rss();
let peak = start;
await loops[process.argv[2]](() => {
  peak = Math.max(peak, process.memoryUsage.rss());
});
const rounded = (bytes) => Math.round(bytes / 1e6);
process.stdout.write(`${JSON.stringify({ peak: rounded(peak), growth: rounded(peak - start) })}\n`);
