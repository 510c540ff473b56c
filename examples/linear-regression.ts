/**
 * Linear regression with arrays and gradients alone: noisy points of a plane, and gradient descent that finds its slopes again.
 *
 *   node dist/examples/linear-regression.js [--help]
 */
import { lineChart, mx, type MxArray, type Point } from 'mlx-node';
import { progress, readOptions, verdict, writePage } from './support.js';

const { steps, seed, points, output } = readOptions('Finds the slopes of a plane from noisy points.', {
  steps: [150, 'steps of gradient descent'],
  points: [1000, 'how many'],
  seed: [0, 'of points and noise'],
  output: ['runs/linear-regression.html', 'page with the charts'],
});
mx.random.seed(seed);

const slopes = [2, -1, 0.5];
const offset = 3;
const noise = 0.1;
const x = mx.random.normal([points, slopes.length]);
const y = x
  .matmul(mx.array(slopes))
  .add(offset)
  .add(mx.random.normal([points], { scale: noise }));

/** The mean squared error of parameters, a tree of arrays. */
const loss = (p: { w: MxArray; b: MxArray }): MxArray => x.matmul(p.w).add(p.b).subtract(y).square().mean();

const lossAndGrad = mx.valueAndGrad(loss);
let parameters = { w: mx.zeros([slopes.length]), b: mx.array(0, 'float32') };
const losses: Point[] = [];
const found: Point[][] = [...slopes, offset].map(() => []);

for (let step = 1; step <= steps; step++) {
  // Everything made in a step is freed at its end, but for what it returns.
  const [value, next] = mx.tidy(() => {
    const [error, gradient] = lossAndGrad(parameters);
    const moved = {
      w: parameters.w.subtract(gradient.w.multiply(0.05)),
      b: parameters.b.subtract(gradient.b.multiply(0.05)),
    };
    mx.eval(error, moved);
    return [error.item(), moved] as const;
  });
  mx.dispose(parameters);
  parameters = next;
  losses.push([step, value]);
  [...parameters.w.toFloat32(), parameters.b.item()].forEach((estimate, i) => found[i]!.push([step, estimate]));
  progress(`step ${step}/${steps}  mean squared error ${value.toFixed(4)}`, step === steps);
}

const names = [...slopes.map((slope, i) => `slope ${i + 1}: ${slope}`), `offset: ${offset}`];
const estimates = [...parameters.w.toFloat32(), parameters.b.item()];
writePage(output, 'Linear regression', `${points} points, noise ${noise}, ${steps} steps`, [
  lineChart({
    title: 'Estimates',
    series: names.map((name, i) => ({ name, points: found[i]! })),
    average: false,
    note: 'The legend names the true values.',
  }),
  lineChart({
    title: 'Mean squared error',
    series: [{ name: 'error', points: losses }],
    average: false,
    fromZero: true,
    note: `The square of the noise is ${(noise ** 2).toFixed(4)}: nothing can do better on many points.`,
  }),
]);
// An estimate's own error is about noise / √points; five times that, and what gradient descent has left to go.
const worst = Math.max(...estimates.map((estimate, i) => Math.abs(estimate - [...slopes, offset][i]!)));
const bound = (5 * noise) / Math.sqrt(points) + 1e-3;
verdict(
  worst < bound,
  `estimates ${estimates.map((value) => value.toFixed(3)).join(', ')}; off by at most ${worst.toFixed(4)}, allowed ${bound.toFixed(4)}`,
);
