/** Pictures of digits, drawn by code: strokes that are shifted, turned, stretched, of varying thickness and noise. */

export const side = 28;

/** The strokes of each digit in a box from (0, 0), top left, to (1, 1.4): lines of points, and arcs as many points. */
const strokes: readonly (readonly [number, number][])[][] = [
  [arc(0.5, 0.7, 0.5, 0.7, 0, 360)],
  [
    [
      [0.2, 0.3],
      [0.55, 0],
      [0.55, 1.4],
    ],
  ],
  [[...arc(0.5, 0.42, 0.45, 0.42, 180, 390), [0.05, 1.4], [1, 1.4]]],
  [arc(0.45, 0.36, 0.42, 0.36, 200, 450), arc(0.45, 1.04, 0.5, 0.36, 270, 520)],
  [
    [
      [0.75, 1.4],
      [0.75, 0],
      [0.02, 0.95],
      [1, 0.95],
    ],
  ],
  [[[0.9, 0], [0.15, 0], [0.1, 0.6], ...arc(0.42, 0.95, 0.5, 0.45, 235, 500)]],
  [
    [
      [0.7, 0],
      [0.2, 0.6],
    ],
    arc(0.5, 0.98, 0.42, 0.42, 0, 360),
  ],
  [
    [
      [0, 0],
      [1, 0],
      [0.4, 1.4],
    ],
  ],
  [arc(0.5, 0.34, 0.36, 0.34, 0, 360), arc(0.5, 1.04, 0.46, 0.36, 0, 360)],
  [
    arc(0.5, 0.42, 0.42, 0.42, 0, 360),
    [
      [0.92, 0.42],
      [0.75, 1.4],
    ],
  ],
];

function arc(x: number, y: number, rx: number, ry: number, from: number, to: number): [number, number][] {
  const parts = 16;
  return Array.from({ length: parts + 1 }, (_, i) => {
    const angle = ((from + ((to - from) * i) / parts) * Math.PI) / 180;
    return [x + rx * Math.cos(angle), y + ry * Math.sin(angle)];
  });
}

export interface Digits {
  /** `[count, 28 * 28]`, 0 to 1, row by row. */
  pixels: Float32Array;
  /** `[count]` */
  labels: Uint32Array;
}

/** `count` pictures, from numbers in [0, 1). */
export function drawDigits(count: number, random: () => number): Digits {
  const pixels = new Float32Array(count * side * side);
  const labels = new Uint32Array(count);
  for (let i = 0; i < count; i++) {
    labels[i] = Math.floor(random() * 10);
    draw(pixels.subarray(i * side * side, (i + 1) * side * side), strokes[labels[i]!]!, random);
  }
  return { pixels, labels };
}

function draw(picture: Float32Array, lines: readonly (readonly [number, number][])[], random: () => number): void {
  const between = (low: number, high: number): number => low + (high - low) * random();
  const [turn, slant] = [between(-0.25, 0.25), between(-0.25, 0.25)];
  const [width, height] = [between(8, 13), between(10, 14)];
  const [left, top] = [side / 2 + between(-3, 3), side / 2 + between(-3, 3)];
  const thickness = between(0.9, 1.9);
  const place = ([x, y]: readonly [number, number]): [number, number] => {
    const [u, v] = [(x - 0.5 + slant * (0.7 - y)) * width, (y - 0.7) * height];
    return [left + u * Math.cos(turn) - v * Math.sin(turn), top + u * Math.sin(turn) + v * Math.cos(turn)];
  };
  const segments = lines.flatMap((line) => {
    const points = line.map(place);
    return points.slice(1).map((point, i) => [points[i]!, point] as const);
  });
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      let square = Infinity;
      for (const [a, b] of segments) square = Math.min(square, squareTo(column + 0.5, row + 0.5, a, b));
      const ink = Math.min(1, Math.max(0, thickness - Math.sqrt(square) + 0.5));
      picture[row * side + column] = Math.min(1, Math.max(0, ink * between(0.8, 1) + between(-0.15, 0.15)));
    }
  }
}

/** The squared distance from a point to a stretch of a line. */
function squareTo(x: number, y: number, [ax, ay]: [number, number], [bx, by]: [number, number]): number {
  const [dx, dy] = [bx - ax, by - ay];
  const along = Math.min(1, Math.max(0, ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy || 1)));
  return (x - ax - along * dx) ** 2 + (y - ay - along * dy) ** 2;
}

/** A picture as HTML: a grey BMP, which is a header, a palette, and rows of 28 bytes from the bottom. */
export function pictureHtml(pixels: Float32Array, caption: string): string {
  const header = Buffer.alloc(54);
  header.write('BM');
  header.writeUInt32LE(54 + 1024 + side * side, 2);
  header.writeUInt32LE(54 + 1024, 10);
  header.writeUInt32LE(40, 14);
  header.writeInt32LE(side, 18);
  header.writeInt32LE(-side, 22);
  header.writeUInt16LE(1, 26);
  header.writeUInt16LE(8, 28);
  const palette = Buffer.from(Array.from({ length: 256 }, (_, i) => [255 - i, 255 - i, 255 - i, 0]).flat());
  const data = Buffer.concat([header, palette, Buffer.from(pixels.map((value) => Math.round(value * 255)))]);
  return `<figure style="margin:0;text-align:center"><img alt="${caption}" width="84" height="84" style="image-rendering:pixelated" src="data:image/bmp;base64,${data.toString('base64')}"><br>${caption}</figure>`;
}
