/** Numbers that Python's `mlx.core` has by name. */
export const { PI: pi, E: e } = Math;
export const inf = Infinity;
export const nan = NaN;
/** The Euler-Mascheroni constant. */
export const eulerGamma = 0.577_215_664_901_532_9;
/** A new axis in an index expression. */
export const newaxis = null;
/** Names of devices. */
export const cpu = 'cpu';
export const gpu = 'gpu';
