import type * as addon from 'mlx-node/native';
import { native } from './native.js';

const loaded = native();

/** A lazy n-dimensional array. */
export const MxArray: typeof addon.MxArray = loaded.MxArray;
export type MxArray = addon.MxArray;

export const grpoLoss: typeof addon.grpoLoss = loaded.grpoLoss;
export const grpoLossAndGrad: typeof addon.grpoLossAndGrad = loaded.grpoLossAndGrad;
export const computeAdvantages: typeof addon.computeAdvantages = loaded.computeAdvantages;
export const computeImportanceRatios: typeof addon.computeImportanceRatios = loaded.computeImportanceRatios;
export const selectiveLogSoftmax: typeof addon.selectiveLogSoftmax = loaded.selectiveLogSoftmax;
export const computeEntropy: typeof addon.computeEntropy = loaded.computeEntropy;
export const applyRepetitionPenalty: typeof addon.applyRepetitionPenalty = loaded.applyRepetitionPenalty;
export const applyTopK: typeof addon.applyTopK = loaded.applyTopK;
export const applyTopP: typeof addon.applyTopP = loaded.applyTopP;
export const applyMinP: typeof addon.applyMinP = loaded.applyMinP;
