/** Arrays in plain JavaScript, in doubles: what the operations must give, written for clarity. */

export interface Plain {
  shape: readonly number[];
  /** Row-major. */
  data: readonly number[];
}

export const sizeOf = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1);

export const plain = (shape: readonly number[], element: (place: number[]) => number): Plain => ({
  shape,
  data: Array.from(places(shape), element),
});

/** All places of a shape in row-major order. */
export function* places(shape: readonly number[]): Generator<number[]> {
  const count = sizeOf(shape);
  for (let flat = 0; flat < count; flat++) {
    const place: number[] = [];
    let rest = flat;
    for (const size of shape.toReversed()) {
      place.unshift(rest % size);
      rest = Math.floor(rest / size);
    }
    yield place;
  }
}

export function at({ shape, data }: Plain, place: readonly number[]): number {
  const flat = place.reduce((index, where, axis) => index * shape[axis]! + where, 0);
  return data[flat]!;
}

export const normal = (axis: number, ndim: number): number => (axis < 0 ? axis + ndim : axis);

/** The element that stands at a place of the shape `a` is broadcast to. */
function stretched(a: Plain, place: readonly number[]): number {
  const own = place.slice(place.length - a.shape.length);
  return at(
    a,
    own.map((where, axis) => (a.shape[axis] === 1 ? 0 : where)),
  );
}

export function broadcastShape(a: readonly number[], b: readonly number[]): number[] {
  const ndim = Math.max(a.length, b.length);
  return Array.from({ length: ndim }, (_, i) => {
    const [x, y] = [a[a.length - ndim + i] ?? 1, b[b.length - ndim + i] ?? 1];
    return x === 1 ? y : x;
  });
}

export const broadcastTo = (a: Plain, shape: readonly number[]): Plain => plain(shape, (place) => stretched(a, place));

export const map = (a: Plain, call: (x: number) => number): Plain => ({ shape: a.shape, data: a.data.map(call) });

export function zip(a: Plain, b: Plain, call: (x: number, y: number) => number): Plain {
  return plain(broadcastShape(a.shape, b.shape), (place) => call(stretched(a, place), stretched(b, place)));
}

/** The lines along some axes, one for each element of the result. */
export function reduce(
  a: Plain,
  axes: readonly number[],
  keepdims: boolean,
  call: (values: number[]) => number,
): Plain {
  const reduced = new Set(axes.map((axis) => normal(axis, a.shape.length)));
  const kept = a.shape.map((size, axis) => (reduced.has(axis) ? 1 : size));
  const groups = new Map<string, number[]>(Array.from(places(kept), (place) => [String(place), []]));
  for (const place of places(a.shape))
    groups.get(String(place.map((where, axis) => (reduced.has(axis) ? 0 : where))))!.push(at(a, place));
  const data = Array.from(places(kept), (place) => call(groups.get(String(place))!));
  return { shape: keepdims ? kept : kept.filter((_, axis) => !reduced.has(axis)), data };
}

/** Each line along one axis by another of any length. */
export function lines(a: Plain, axis: number, call: (line: number[]) => number[]): Plain {
  const along = normal(axis, a.shape.length);
  const length = call(Array.from({ length: a.shape[along]! }, () => 0)).length;
  const shape = a.shape.with(along, length);
  const made = new Map<string, number[]>();
  const line = (place: number[]): number[] => {
    const key = String(place.with(along, 0));
    const known =
      made.get(key) ?? call(Array.from({ length: a.shape[along]! }, (_, where) => at(a, place.with(along, where))));
    made.set(key, known);
    return known;
  };
  return plain(shape, (place) => line(place)[place[along]!]!);
}

export const transpose = (a: Plain, axes: readonly number[]): Plain =>
  plain(
    axes.map((axis) => a.shape[axis]!),
    (place) => {
      const from: number[] = [];
      axes.forEach((axis, i) => (from[axis] = place[i]!));
      return at(a, from);
    },
  );

/** What `choose` names along one axis, which then has as many elements. */
export function pick(a: Plain, axis: number, choose: readonly number[]): Plain {
  const along = normal(axis, a.shape.length);
  return plain(a.shape.with(along, choose.length), (place) => at(a, place.with(along, choose[place[along]!]!)));
}

export function concatenate(parts: readonly Plain[], axis: number): Plain {
  const along = normal(axis, parts[0]!.shape.length);
  const total = parts.reduce((sum, part) => sum + part.shape[along]!, 0);
  return plain(parts[0]!.shape.with(along, total), (place) => {
    let where = place[along]!;
    for (const part of parts) {
      if (where < part.shape[along]!) return at(part, place.with(along, where));
      where -= part.shape[along]!;
    }
    throw new Error('outside');
  });
}

/** As `a` with `widths` more elements around it; `inside` says where an element of an axis comes from, -1 is the value. */
export function pad(
  a: Plain,
  widths: readonly (readonly [number, number])[],
  value: number,
  inside: (where: number, size: number) => number,
): Plain {
  const shape = a.shape.map((size, axis) => size + widths[axis]![0] + widths[axis]![1]);
  return plain(shape, (place) => {
    const from = place.map((where, axis) => inside(where - widths[axis]![0], a.shape[axis]!));
    return from.includes(-1) ? value : at(a, from);
  });
}
