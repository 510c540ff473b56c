import { describe, expect, it } from 'vitest';
import { valueToJson } from '../../lib/chat/values.ts';

const integer = { type: 'integer' };
const number = { type: 'number' };
const string = { type: 'string' };
const object = { type: 'object' };
const array = { type: 'array' };

describe('values that a model wrote as text', () => {
  it.each([
    ['12', string, '"12"'],
    ['a "b"\n', string, '"a \\"b\\"\\n"'],
    ['null', string, 'null'],
    ['NULL', integer, 'null'],
    ['12', integer, '12'],
    [' 12\n', integer, '12'],
    ['-0012', integer, '-12'],
    ['+7', integer, '7'],
    ['12345678901234567890', integer, '12345678901234567890'],
    ['3.0', integer, '3'],
    ['1e3', integer, '1000'],
    ['3.5', integer, '"3.5"'],
    ['three', integer, '"three"'],
    ['0x10', integer, '"0x10"'],
    ['12', { type: 'uint32' }, '12'],
    ['12', { type: 'long' }, '12'],
    ['3.5', number, '3.5'],
    ['3.0', number, '3'],
    ['.5', number, '0.5'],
    ['-0', number, '0'],
    ['1e999', number, '"1e999"'],
    ['Infinity', number, '"Infinity"'],
    ['2', { type: 'float' }, '2'],
    ['true', { type: 'boolean' }, 'true'],
    ['False', { type: 'bool' }, 'false'],
    ['yes', { type: 'boolean' }, '"yes"'],
    ['{"a": [1]}', object, '{"a": [1]}'],
    ["{'a': True, 'b': None, 'c': (1, 'x',), \"d\": {}, }", object, '{"a":true,"b":null,"c":[1,"x"],"d":{}}'],
    ["['it\\'s', '\\x41\\u00e9\\n', -1.50]", array, '["it\'s","AÉ\\n",-1.5]'.replace('É', 'é')],
    ['{1: 2}', object, '"{1: 2}"'],
    ['[1, 2', array, '"[1, 2"'],
    ['__import__("os")', object, '"__import__(\\"os\\")"'],
    ['[open]', array, '"[open]"'],
    ['plain', array, '"plain"'],
    ['[1]', { type: 'dict' }, '[1]'],
    ['12', undefined, '"12"'],
    ['{"a":1}', undefined, '{"a":1}'],
    ["{'a':1}", undefined, '"{\'a\':1}"'],
    ['12', {}, '"12"'],
    ['12', { type: ['integer', 'null'] }, '12'],
    ['12', { type: ['string', 'integer'] }, '"12"'],
    ['[1]', { anyOf: [string, array] }, '[1]'],
    ['x', { anyOf: [string, array] }, '"x"'],
    ['7', { oneOf: [integer, { type: 'null' }] }, '7'],
    ['2', { enum: [1, 2, null] }, '2'],
    ['1', { enum: ['1', '2'] }, '"1"'],
    ['x', { type: 'geometry' }, '"x"'],
    ['12', { type: 'geometry' }, '12'],
    ['{"a": "two\nlines"}', object, '{"a": "two\\nlines"}'],
    ['{\n"a": 1}', undefined, '{\n"a": 1}'],
  ])('%j as %j is %s', (text, schema, expected) => {
    expect(valueToJson(text, schema)).toBe(expected);
    expect(() => JSON.parse(valueToJson(text, schema)) as unknown).not.toThrow();
  });
});
