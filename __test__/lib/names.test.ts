import { expect, test } from 'vitest';
import * as mlx from '../../lib/index.js';

/** Names that programs import: once published, they stay. */
const names = `
  loadModel Qwen2Model Qwen3Model grpoLoss grpoLossAndGrad computeAdvantages computeImportanceRatios selectiveLogSoftmax computeEntropy
  applyRepetitionPenalty applyTopK applyTopP applyMinP KVCache grad valueAndGrad vjp compile
  checkpoint SGD Adam AdamW Adafactor Lion Muon RMSprop GRPOTrainer
  SFTTrainer MxArray MlxError mx nn optim tidy keep dispose
  memoryStats
`
  .trim()
  .split(/\s+/);

test.each(names)('%s is exported', (name) => {
  expect(mlx).toHaveProperty(name);
});
