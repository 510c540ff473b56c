// Reads a file and prints how much memory that took at most, in bytes: `node files-child.mjs <path>`.
import { existsSync, readFileSync } from 'node:fs';
import { mx } from '../../dist/lib/index.js';

// On Linux a process inherits the maxRSS of the one that started it; VmHWM is its own.
const status = '/proc/self/status';
const peak = () =>
  1024 *
  (existsSync(status)
    ? Number(/VmHWM:\s+(\d+)/.exec(readFileSync(status, 'utf8'))[1])
    : process.resourceUsage().maxRSS);

// What the addon itself takes is not the file's.
mx.array([1]).add(1).eval();
const before = peak();
const loaded = await mx.load(process.argv[2]);
const arrays = Object.values(loaded);
const bytes = arrays.reduce((sum, array) => sum + array.nbytes, 0);
console.log(JSON.stringify({ bytes, arrays: arrays.length, grew: peak() - before }));
