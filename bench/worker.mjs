// Processes that measure on request, so that we and the peers can take turns: one JSON object a line goes in, one comes out.
import { spawn } from 'node:child_process';
import process from 'node:process';
import readline from 'node:readline';
import { SetupError } from '../scripts/task.mjs';

const print = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

/** The measuring side: says who it is, then answers each request `{ case, … }` with what `cases[case]` returns. */
export async function serve(peer, cases) {
  print({ peer });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    print(await cases[request.case](request));
  }
}

/** The asking side. A worker that ends early fails every request with what it wrote. */
export class Worker {
  /** Who measures, with versions. */
  peer = '';
  #child;
  #lines;
  #errors = '';

  static async start(command, args, env = {}) {
    const worker = new Worker();
    const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ['pipe', 'pipe', 'pipe'] });
    worker.#child = child;
    child.stderr.setEncoding('utf8').on('data', (text) => (worker.#errors = (worker.#errors + text).slice(-3000)));
    child.on('error', (error) => (worker.#errors += error.message));
    worker.#lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    ({ peer: worker.peer } = await worker.#answer());
    return worker;
  }

  async ask(request) {
    this.#child.stdin.write(`${JSON.stringify(request)}\n`);
    return await this.#answer();
  }

  async #answer() {
    // Libraries print, too: answers are the lines that are JSON objects.
    for (;;) {
      const { value, done } = await this.#lines.next();
      if (done) throw new SetupError(`${this.#child.spawnargs.join(' ')} has ended:\n${this.#errors.trimEnd()}`);
      if (value.startsWith('{')) return JSON.parse(value);
    }
  }

  stop() {
    this.#child.stdin.end();
  }
}
