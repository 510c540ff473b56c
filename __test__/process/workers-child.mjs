// Four workers use the addon at once; others beside them are terminated in the middle of work or exit by themselves.
// Arguments: seconds, checkpoint folder. Writes one line of JSON about what happened.
/* oxlint-disable unicorn/require-post-message-target-origin -- windows have origins, workers do not */
import process from 'node:process';
import { setImmediate as tick, setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { loadModel, memoryStats, MlxError, mx, MxArray, tidy } from '../../dist/lib/index.js';

function same(actual, expected, what) {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (a !== b) throw new Error(`${what}: ${a} instead of ${b}`);
}

const refused = (call, code) => {
  try {
    call();
  } catch (error) {
    return same([MlxError.isInstance(error), error.code], [true, code], 'error');
  }
  throw new Error(`no ${code}`);
};

const squares = (n) => (n * (n + 1) * (2 * n + 1)) / 6;

/** What each kind of worker does over and over; the argument counts the rounds. */
const kinds = {
  /** Operations, reading, indexing, errors, gradients, all of it tidy. */
  async operations(round) {
    tidy(() => {
      const n = 1 + (round % 50);
      const a = mx.array(Float32Array.from({ length: n }, (_, i) => i + 1));
      same(a.square().sum().item(), squares(n), 'sum of squares');
      same(a.index('::-1').at(0).item(), n, 'last');
      same(a.indexUpdate([0], 0).sum().item(), (n * (n + 1)) / 2 - 1, 'update');
      same(
        a
          .reshape([n, 1])
          .matmul(mx.ones([1, 2]))
          .toArray()
          .at(-1),
        [n, n],
        'product',
      );
      same(
        mx
          .grad((x) => x.square().sum())(a)
          .at(0)
          .item(),
        2,
        'gradient',
      );
      refused(() => a.reshape([n + 1]), 'ERR_MLX_SHAPE');
      refused(() => a.index(n), 'ERR_MLX_SHAPE');
    });
  },

  /** Random numbers of this thread, evaluated in the background. */
  async random(round) {
    await tidy(async () => {
      mx.random.seed(round % 7);
      const drawn = mx.random.normal([64, 64]);
      const key = mx.random.key(round % 7);
      const own = mx.random.normal([64, 64], { key });
      const product = drawn.matmul(mx.ones([64, 1]));
      await mx.evalAsync(product, own);
      const again = mx.random.normal([64, 64], { key });
      same(own.subtract(again).abs().max().item(), 0, 'the same key');
      mx.random.seed(round % 7);
      same(mx.random.normal([64, 64]).subtract(drawn).abs().max().item(), 0, 'the same seed');
      const [value, expected] = [product.sum().item(), drawn.sum().item()];
      if (!(Math.abs(value - expected) < 0.01)) throw new Error(`sum ${value} instead of ${expected}`);
    });
  },

  /** Arrays left to the garbage collector, disposed, disposed twice. */
  async garbage(round) {
    const data = new Int32Array(10_000).fill(round % 1000);
    for (let i = 0; i < 20; i++) {
      const a = mx.array(data);
      const b = a.add(i);
      if (i % 2 === 0) {
        a.dispose();
        a.dispose();
        refused(() => a.add(1), 'ERR_MLX_DISPOSED');
      }
      same(b.max().item(), (round % 1000) + i, 'maximum');
    }
    await tick();
  },
};

/** A model of its own, generating the same tokens every time. */
async function generator(path) {
  const model = await loadModel(path);
  const generate = () => model.generate('12+34=', { maxTokens: 12, temperature: 0 });
  const first = await generate();
  return async () => same((await generate()).tokens, first.tokens, 'tokens');
}

async function work() {
  const { kind, seconds, model } = workerData;
  const round = kind === 'generation' ? await generator(model) : kinds[kind];
  const end = Date.now() + seconds * 1000;
  let rounds = 0;
  while (Date.now() < end) {
    await round(rounds);
    rounds += 1;
    if (rounds % 50 === 0) await tick();
    if (rounds === 1) parentPort.postMessage('started');
  }
  if (kind === 'operations') parentPort.postMessage({ array: mx.array([1]) });
  parentPort.postMessage({ kind, rounds });
}

async function exiting() {
  void mx.random
    .normal([512, 512])
    .matmul(mx.ones([512, 512]))
    .evalAsync();
  mx.array([1]);
  process.exit(0);
}

const start = (data) => new Worker(fileURLToPath(import.meta.url), { workerData: data });

const megabytes = (bytes) => Math.round(bytes / 1e6);

async function main([seconds, model]) {
  const results = [];
  const problems = [];
  let foreign;
  const running = ['operations', 'random', 'garbage', 'generation'].map(
    (kind) =>
      new Promise((resolve) => {
        const worker = start({ kind, seconds, model });
        worker.on('message', (message) => {
          if (message.array !== undefined) foreign = message.array;
          else if (message.kind !== undefined) results.push(message);
        });
        worker.on('error', (error) => problems.push(`${kind}: ${error.stack ?? error}`));
        worker.on('exit', resolve);
      }),
  );
  const all = Promise.all(running).then(() => 'done');
  const resident = [];
  let [terminated, exited] = [0, 0];
  for (;;) {
    const kind = ['operations', 'random', 'garbage', 'generation'][terminated % 4];
    const victim = start({ kind, seconds: 1000, model });
    victim.on('error', (error) => problems.push(`terminated ${kind}: ${error.stack ?? error}`));
    await Promise.race([new Promise((resolve) => victim.once('message', resolve)), all]);
    await sleep(Math.random() * 50);
    await victim.terminate();
    terminated += 1;
    const leaver = start({ kind: 'exit' });
    leaver.on('error', (error) => problems.push(`exiting: ${error.stack ?? error}`));
    await new Promise((resolve) => leaver.on('exit', resolve));
    exited += 1;
    resident.push(process.memoryUsage.rss());
    if ((await Promise.race([all, sleep(200)])) === 'done') break;
  }
  await all;
  const isArray = foreign instanceof MxArray;
  let code;
  try {
    mx.add(foreign, 1);
  } catch (error) {
    code = error.code;
  }
  same(mx.array([1, 2]).sum().item(), 3, 'the main thread');
  // Of the highest values: each worker alone needs tens of megabytes, and not always the same.
  const half = Math.floor(resident.length / 2);
  const growth = Math.max(...resident.slice(half)) - Math.max(...resident.slice(0, half));
  const rounds = Object.fromEntries(results.map(({ kind, rounds: count }) => [kind, count]));
  const report = {
    rounds,
    problems,
    terminated,
    exited,
    foreign: { isArray, code },
    growth: megabytes(growth),
    resident: [resident[0], resident[half], resident.at(-1)].map(megabytes),
    active: megabytes(memoryStats().active),
  };
  process.stdout.write(`${JSON.stringify(report)}\n`);
}

if (isMainThread) await main([Number(process.argv[2]), process.argv[3]]);
else if (workerData.kind === 'exit') await exiting();
else await work();
