/**
 * A transformer that writes, letter by letter. Its text comes from a small grammar, so what it writes can be checked: are these
 * sentences, and do verbs agree with their nouns? The grammar's own entropy is the best loss that any model can have.
 *
 *   node dist/examples/char-transformer.js [--help]
 */
import { escapeHtml, lineChart, mx, nn, optim, type MxArray, type Point } from 'mlx-node';
import { randomNumbers } from './arithmetic.js';
import { progress, readOptions, verdict, writePage } from './support.js';

const { steps, batch, context, seed, output } = readOptions('Learns to write sentences of a small grammar.', {
  steps: [500, 'training steps'],
  batch: [16, 'stretches of text in a step'],
  context: [64, 'letters that the model sees'],
  seed: [0, 'of text, weights and samples'],
  output: ['runs/char-transformer.html', 'page with the charts'],
});

// The grammar: singular or plural, and a choice from each column.
const [singular, plural] = [
  ['the', 'one', 'every'],
  ['two', 'three', 'many'],
];
const adjectives = ['', 'small ', 'old ', 'happy ', 'blue '];
const nouns = ['bird', 'sailor', 'robot', 'cloud', 'giraffe'];
const verbs = ['sing', 'sleep', 'dream', 'whisper'];
const places = ['near the river', 'in the garden', 'under a tree', 'at night', 'without a sound'];
const choices = [2, 3, adjectives.length, nouns.length, verbs.length, places.length];

const random = randomNumbers(seed);
const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
function sentence(): string {
  const many = random() < 0.5;
  const subject = `${pick(many ? plural! : singular!)} ${pick(adjectives)}${pick(nouns)}${many ? 's' : ''}`;
  return `${subject} ${pick(verbs)}${many ? '' : 's'} ${pick(places)}. `;
}
const article = `((${singular!.join('|')})|(${plural!.join('|')}))`;
const either = (words: readonly string[]): string => `(?:${words.join('|')})`;
const grammatical = new RegExp(
  `^${article} ${either(adjectives)}${either(nouns)}(s?) ${either(verbs)}(s?) ${either(places)}\\.$`,
);
/** Whether the grammar makes it: one noun and a verb with s, or several with s and a verb without. */
function isSentence(text: string): boolean {
  const [, , one, , nounEnd, verbEnd] = grammatical.exec(text) ?? [];
  if (nounEnd === undefined) return false;
  return one === undefined ? nounEnd === 's' && verbEnd === '' : nounEnd === '' && verbEnd === 's';
}

const text = Array.from({ length: 4000 }, sentence).join('');
const letters = [...new Set(text)].toSorted();
const encode = (part: string): number[] => [...part].map((letter) => letters.indexOf(letter));
const ids = Uint32Array.from(encode(text));
/** Nats a letter. */
const entropy = choices.reduce((sum, count) => sum + Math.log(count), 0) / (text.length / 4000);

const dims = 64;

/** Letters to logits, over two blocks of attention with rotary positions. */
class Transformer extends nn.Module {
  readonly embedding = new nn.Embedding(letters.length, dims);
  readonly blocks = [1, 2].map(() => new nn.TransformerBlock(dims, 4, 4 * dims));
  readonly norm = new nn.RMSNorm(dims);
  readonly head = new nn.Linear(dims, letters.length, { bias: false });

  /** Logits `[B, T, V]` of letters `[B, T]`. */
  forward(x: MxArray): MxArray {
    let hidden = this.embedding.forward(x);
    for (const block of this.blocks) hidden = block.forward(hidden, 'causal');
    return this.head.forward(this.norm.forward(hidden));
  }
}

/** Stretches of the text, and the same one letter later. */
function stretches(): [MxArray, MxArray] {
  const rows = Array.from({ length: batch }, () => Math.floor(random() * (ids.length - context - 1)));
  const take = (shift: number): MxArray =>
    mx
      .array(Uint32Array.from(rows.flatMap((at) => [...ids.subarray(at + shift, at + shift + context)])))
      .reshape([batch, context]);
  return [take(0), take(1)];
}

mx.random.seed(seed);
const model = new Transformer();
const schedule = { learningRate: 3e-3, warmupSteps: Math.min(20, Math.floor(steps / 2)), maxSteps: steps };
const optimizer = new optim.AdamW({
  learningRate: optim.schedules.transformers('cosine', schedule),
  weightDecay: 0.01,
});
const lossAndGrad = nn.valueAndGrad(model, (x: MxArray, y: MxArray) =>
  nn.losses.crossEntropy(model.forward(x), y, { reduction: 'mean' }),
);
const losses: Point[] = [];
const started = performance.now();
for (let step = 1; step <= steps; step++) {
  const [loss, gradients] = lossAndGrad(...stretches());
  optimizer.update(model, optim.clipGradNorm(gradients, 1)[0]);
  await mx.evalAsync(loss, model, optimizer.state);
  losses.push([step, loss.item()]);
  progress(
    `step ${step}/${steps}  ${loss.item().toFixed(3)} nats a letter (the text itself: ${entropy.toFixed(3)})`,
    step === steps,
  );
}

/** What the model writes after `start`: several texts at once. */
function write(start: string, length: number, count: number): string[] {
  const written = Array.from({ length: count }, () => encode(start));
  for (let i = 0; i < length; i++) {
    const next = mx.tidy(() => {
      const logits = model.forward(mx.array(written.map((line) => line.slice(-context))));
      return mx.random.categorical(logits.index(':', -1)).toUint32();
    });
    written.forEach((line, row) => line.push(next[row]!));
  }
  return written.map((line) => line.map((id) => letters[id]).join(''));
}

model.eval();
// After the end of a sentence. The last one of each text may be cut off.
const sentences = write('. ', 200, 16).flatMap((sample) => sample.split(/(?<=\.) /).slice(1, -1));
const right = sentences.filter(isSentence).length / Math.max(1, sentences.length);
const final = losses.slice(-20).reduce((sum, [, loss]) => sum + loss, 0) / Math.min(20, losses.length);
console.log(sentences.slice(0, 5).join('\n'));
const rows = sentences.map(
  (line) => `<tr><td>${isSentence(line) ? '✓' : '✗'}</td><td class="text">${escapeHtml(line)}</td></tr>`,
);
writePage(
  output,
  'A transformer of letters',
  `${text.length} letters, ${model.numParameters()} parameters, ${steps} steps, ${((performance.now() - started) / 1000).toFixed(0)} s`,
  [
    lineChart({
      title: 'Nats a letter',
      series: [
        { name: 'model', points: losses },
        { name: 'entropy of the text', points: [1, steps].map((step): Point => [step, entropy]) },
      ],
      fromZero: true,
      average: false,
      note: 'No model can stay below the entropy. The first letters of a stretch, which lack their context, cost a little more.',
    }),
  ],
  `<h2>What it writes</h2><div class="panel"><table>${rows.slice(0, 30).join('')}</table></div>`,
);
verdict(
  final < 1.5 * entropy && right > 0.8,
  `${final.toFixed(3)} nats a letter, ${(final / entropy).toFixed(2)} times the entropy; ${(100 * right).toFixed(0)} % of its ${sentences.length} sentences are right`,
);
