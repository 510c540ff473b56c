/**
 * Digits, as of MNIST but drawn by code: a network of three layers learns to read them, and is tested on pictures that it has never seen.
 *
 *   node dist/examples/mlp.js [--help]
 */
import { lineChart, mx, nn, optim, type MxArray, type Point } from 'mlx-node';
import { randomNumbers } from './arithmetic.js';
import { drawDigits, pictureHtml, side } from './digits.js';
import { progress, readOptions, verdict, writePage } from './support.js';

const {
  steps,
  batch,
  pictures: count,
  seed,
  output,
} = readOptions('Learns to read digits, 28 x 28 pixels.', {
  steps: [400, 'training steps'],
  batch: [128, 'pictures in a step'],
  pictures: [6000, 'drawn for training'],
  seed: [0, 'of pictures, weights and order'],
  output: ['runs/mlp.html', 'page with the charts'],
});

class MLP extends nn.Module {
  readonly layers = [new nn.Linear(side * side, 128), new nn.Linear(128, 64), new nn.Linear(64, 10)];
  readonly dropout = new nn.Dropout(0.1);

  /** Logits `[B, 10]` of pictures `[B, 784]`. */
  forward(x: MxArray): MxArray {
    const [first, second, third] = this.layers as [nn.Linear, nn.Linear, nn.Linear];
    return third.forward(this.dropout.forward(nn.relu(second.forward(nn.relu(first.forward(x))))));
  }
}

mx.random.seed(seed);
const random = randomNumbers(seed);
progress('drawing', true);
const train = drawDigits(count, random);
const test = drawDigits(1000, random);
const pictures = mx.array(train.pixels).reshape([-1, side * side]);
const labels = mx.array(train.labels);
const testPictures = mx.array(test.pixels).reshape([-1, side * side]);

const model = new MLP();
const optimizer = new optim.AdamW({
  learningRate: optim.schedules.transformers('cosine', { learningRate: 3e-3, warmupSteps: 20, maxSteps: steps }),
  weightDecay: 0.01,
});
const lossAndGrad = nn.valueAndGrad(model, (x: MxArray, y: MxArray) =>
  nn.losses.crossEntropy(model.forward(x), y, { reduction: 'mean' }),
);

/** What the network takes the test pictures for. */
function read(): Uint32Array {
  model.eval();
  const answers = mx.tidy(() => model.forward(testPictures).argmax(-1).toUint32());
  model.train();
  return answers;
}
const accuracy = (answers: Uint32Array): number =>
  answers.filter((answer, i) => answer === test.labels[i]).length / answers.length;

const losses: Point[] = [];
const accuracies: Point[] = [[0, accuracy(read())]];
const started = performance.now();
for (let step = 1; step <= steps; step++) {
  const chosen = mx.array(Uint32Array.from({ length: batch }, () => Math.floor(random() * train.labels.length)));
  const [loss, gradients] = lossAndGrad(pictures.take(chosen, 0), labels.take(chosen, 0));
  optimizer.update(model, gradients);
  await mx.evalAsync(loss, model, optimizer.state);
  losses.push([step, loss.item()]);
  if (step % 20 === 0 || step === steps) accuracies.push([step, accuracy(read())]);
  const [, latest] = accuracies.at(-1)!;
  progress(
    `step ${step}/${steps}  loss ${loss.item().toFixed(3)}  accuracy ${(100 * latest).toFixed(1)} %`,
    step === steps,
  );
}

const answers = read();
const seconds = (performance.now() - started) / 1000;
const wrong = [...answers.keys()].filter((i) => answers[i] !== test.labels[i]);
const shown = [...wrong.slice(0, 8), ...[...answers.keys()].filter((i) => !wrong.includes(i)).slice(0, 24)].slice(
  0,
  24,
);
const gallery = shown.map((i) =>
  pictureHtml(
    test.pixels.subarray(i * side * side, (i + 1) * side * side),
    answers[i] === test.labels[i] ? `${answers[i]}` : `${answers[i]}, not ${test.labels[i]}`,
  ),
);
writePage(
  output,
  'Reading digits',
  `${train.labels.length} pictures, ${model.numParameters()} parameters, ${steps} steps in ${seconds.toFixed(0)} s`,
  [
    lineChart({
      title: 'Training loss',
      series: [{ name: 'loss', points: losses }],
      fromZero: true,
      average: false,
    }),
    lineChart({
      title: 'Accuracy on new pictures',
      series: [{ name: 'accuracy', points: accuracies }],
      fromZero: true,
      average: false,
    }),
  ],
  `<h2>What the network reads${wrong.length > 0 ? ': first its mistakes' : ''}</h2>
<div class="panel" style="display:flex;flex-wrap:wrap;gap:12px;padding:16px">${gallery.join('')}</div>`,
);
const share = accuracy(answers);
verdict(
  share > 0.95,
  `${(100 * share).toFixed(1)} % of ${answers.length} new pictures are read rightly, more than 95 % wanted`,
);
