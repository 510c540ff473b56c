//! The weight files of a checkpoint: what they hold, checked against a model, and its tensors one by one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::CausalLm;
use super::experts::{Part, expert_name, part_of};
use super::foreign::{Foreign, disorder};
use super::quantization::Scheme;
use super::weights::{INDEX, SINGLE, read_json};
use crate::mlx::io::is_gguf;
use crate::mlx::io::safetensors::{Entry, SafetensorsFile};
use crate::mlx::ops::{self, Quantization, QuantizationMode, Quantized};
use crate::mlx::{Array, Dtype, Error, Result};
use crate::nn::Weight;

/// The `config.json` of a checkpoint folder, and its path.
pub(super) fn read_config(dir: &Path) -> Result<(Value, PathBuf)> {
    if is_gguf(dir) {
        let cure = "load it with loadModel, and save the model";
        return Err(Error::load(dir, format!("is a file in GGUF, and only checkpoint folders can be read here: {cure}")));
    }
    let file = dir.join("config.json");
    Ok((read_json(&file)?, file))
}

/// The weight files of a folder, opened and checked.
fn open_files(dir: &Path) -> Result<Vec<SafetensorsFile>> {
    let single = dir.join(SINGLE);
    if single.exists() {
        return Ok(vec![SafetensorsFile::open(&single)?]);
    }
    let index = dir.join(INDEX);
    if !index.exists() {
        return Err(Error::load(dir, format!("holds neither {SINGLE} nor {INDEX}; only safetensors checkpoints can be loaded")));
    }
    let bad = |message: String| Error::load(&index, message);
    let json = read_json(&index)?;
    let map = json.get("weight_map").and_then(Value::as_object).ok_or_else(|| bad("has no weight_map object".into()))?;
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, file) in map {
        let file = file.as_str().ok_or_else(|| bad(format!("weight_map['{tensor}'] is {file}, not a file name")))?;
        // The index comes with the weights: it must not send the reader to other folders.
        if !file.ends_with(".safetensors") || file.starts_with('.') || file.contains(['/', '\\', ':', '\0']) {
            return Err(bad(format!("weight_map['{tensor}'] is '{file}', not the name of a safetensors file beside the index")));
        }
        shards.entry(file).or_default().push(tensor);
    }
    let mut files = Vec::with_capacity(shards.len());
    for (name, tensors) in shards {
        let file = SafetensorsFile::open(&dir.join(name))?;
        let held: HashSet<&str> = file.entries.iter().map(|entry| entry.name.as_str()).collect();
        if let Some(missing) = tensors.iter().find(|tensor| !held.contains(*tensor)) {
            return Err(bad(format!("says that '{missing}' is in {name}, which does not hold it")));
        }
        files.push(file);
    }
    Ok(files)
}

/// One tensor of one of the files.
#[derive(Clone)]
struct At {
    file: usize,
    /// As the model has it.
    entry: Entry,
    /// What it is made of, where the file has something else.
    made: Option<Box<Made>>,
}

impl At {
    fn own(file: usize, entry: Entry) -> Self {
        At { file, entry, made: None }
    }
}

/// A part of a packed layer, from tensors in the layout of others.
#[derive(Clone)]
struct Made {
    foreign: Foreign,
    /// The tensor of the same file.
    from: Entry,
    part: MadePart,
}

#[derive(Clone)]
enum MadePart {
    /// With the groups of the inputs, where they are given, and how many there are.
    Words {
        groups: Option<(At, i32)>,
    },
    Scales,
    Biases {
        scales: At,
    },
}

/// Takes the tensors of layers in the layout of others out of the rest, and tells of each the part of the model's that it makes.
fn translated(foreign: Foreign, tensors: Vec<(usize, Entry)>) -> Vec<At> {
    const PARTS: [&str; 4] = [".qweight", ".qzeros", ".scales", ".g_idx"];
    let layer_of = |name: &str| PARTS.iter().find_map(|part| name.strip_suffix(part).map(str::to_string));
    let packed: HashSet<String> =
        tensors.iter().filter_map(|(_, entry)| entry.name.strip_suffix(".qweight").map(str::to_string)).collect();
    let (parts, others): (Vec<_>, Vec<_>) =
        tensors.into_iter().partition(|(_, entry)| layer_of(&entry.name).is_some_and(|layer| packed.contains(&layer)));
    let parts: HashMap<String, (usize, Entry)> =
        parts.into_iter().map(|(file, entry)| (entry.name.clone(), (file, entry))).collect();
    let part = |name: String| parts.get(&name).map(|(file, entry)| At::own(*file, entry.clone()));
    let flipped = |shape: &[i32]| -> Vec<i32> { shape.iter().rev().copied().collect() };
    let mut found: Vec<At> = others.into_iter().map(|(file, entry)| At::own(file, entry)).collect();
    for layer in packed {
        let mut add = |at: At, name: &str, shape: Vec<i32>, dtype: Dtype, part: MadePart| {
            let mut entry = at.entry.clone();
            (entry.name, entry.shape, entry.dtype) = (format!("{layer}.{name}"), shape, dtype);
            found.push(At { file: at.file, entry, made: Some(Box::new(Made { foreign, from: at.entry, part })) });
        };
        let scales = part(format!("{layer}.scales"));
        if let Some(at) = part(format!("{layer}.qweight")) {
            let shape = foreign.words_shape(&at.entry.shape).unwrap_or_else(|| at.entry.shape.clone());
            let count = scales.as_ref().and_then(|at| at.entry.shape.first().copied()).unwrap_or(1);
            let groups = part(format!("{layer}.g_idx")).map(|at| (at, count));
            add(at, "weight", shape, Dtype::Uint32, MadePart::Words { groups });
        }
        if let (Some(at), Some(scales)) = (part(format!("{layer}.qzeros")), &scales) {
            let (shape, dtype) = (flipped(&scales.entry.shape), scales.entry.dtype);
            add(at, "biases", shape, dtype, MadePart::Biases { scales: scales.clone() });
        }
        if let Some(at) = scales {
            let (shape, dtype) = (flipped(&at.entry.shape), at.entry.dtype);
            add(at, "scales", shape, dtype, MadePart::Scales);
        }
    }
    found.sort_by(|left, right| left.entry.name.cmp(&right.entry.name));
    found
}

/// Where a weight of the model is.
enum Place {
    Whole(At),
    /// A tensor for each expert.
    Experts(BTreeMap<i32, At>),
    /// The first or the second half of the rows of every expert.
    Half(At, bool),
}

impl Place {
    /// A tensor that stands for all.
    fn sample(&self) -> Option<&At> {
        match self {
            Place::Whole(at) | Place::Half(at, _) => Some(at),
            Place::Experts(experts) => experts.values().next(),
        }
    }
}

/// What a file says about a tensor.
pub(super) struct Tensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<i32>,
    pub bytes: u64,
    pub file: String,
}

/// The files of a checkpoint by the names that the model has for what is in them.
pub(super) struct Checkpoint<'a> {
    dir: PathBuf,
    files: Vec<SafetensorsFile>,
    places: HashMap<String, Place>,
    /// Hears of bytes read and bytes in all; its error stops the reading.
    progress: &'a mut dyn FnMut(u64, u64) -> Result<()>,
    read: u64,
    total: u64,
    /// Which file was read last.
    last: usize,
}

/// AutoGPTQ gives every layer that it packs a bias, of zeros where the model has none.
fn drop_empty_biases(files: &mut [SafetensorsFile], places: &mut HashMap<String, Place>) -> Result<()> {
    let never = ["o_proj.bias", "gate_proj.bias", "up_proj.bias", "down_proj.bias"];
    let names: Vec<String> = places.keys().filter(|name| never.iter().any(|end| name.ends_with(end))).cloned().collect();
    for name in names {
        let Some(Place::Whole(at)) = places.get(&name) else { continue };
        let bias = files[at.file].read(&at.entry)?;
        if bias.size() > 0 && bias.dtype().is_float() && bias.abs()?.max_all()?.item()? == 0. {
            places.remove(&name);
        }
    }
    Ok(())
}

impl<'a> Checkpoint<'a> {
    pub fn open(dir: &Path, tied: bool, scheme: &Scheme, progress: &'a mut dyn FnMut(u64, u64) -> Result<()>) -> Result<Self> {
        let mut files = open_files(dir)?;
        let mut places: HashMap<String, Place> = HashMap::new();
        let mut total = 0;
        let mut tensors: Vec<(usize, Entry)> = Vec::new();
        for (index, file) in files.iter_mut().enumerate() {
            tensors.extend(std::mem::take(&mut file.entries).into_iter().map(|entry| (index, entry)));
        }
        let tensors = match scheme.foreign {
            Some(foreign) => translated(foreign, tensors),
            None => tensors.into_iter().map(|(file, entry)| At::own(file, entry)).collect(),
        };
        for at in tensors {
            // Buffers that old versions of transformers stored, and a head that is the embedding anyway.
            let needless = |name: &str| name.ends_with("rotary_emb.inv_freq") || (tied && name.starts_with("lm_head."));
            if needless(&at.entry.name) {
                continue;
            }
            total += at.entry.length;
            let (name, file) = (at.entry.name.clone(), at.file);
            let fresh = match part_of(&name) {
                Part::Whole(name) => places.insert(name, Place::Whole(at)).is_none(),
                Part::GateUp(gate, up) => {
                    let first = places.insert(gate, Place::Half(at.clone(), false)).is_none();
                    places.insert(up, Place::Half(at, true)).is_none() && first
                }
                Part::Expert(name, expert) => match places.entry(name).or_insert_with(|| Place::Experts(BTreeMap::new())) {
                    Place::Experts(experts) => experts.insert(expert, at).is_none(),
                    _ => false,
                },
            };
            if !fresh {
                return Err(Error::load(
                    files[file].path(),
                    format!("tensor '{name}' is in another file too, or there in another form"),
                ));
            }
        }
        if scheme.foreign.is_some() {
            drop_empty_biases(&mut files, &mut places)?;
        }
        Ok(Checkpoint { dir: dir.to_path_buf(), files, places, progress, read: 0, total, last: 0 })
    }

    /// The dtype of the first of these weights that are numbers.
    pub fn dtype_of(&self, names: impl Iterator<Item = String>) -> Option<Dtype> {
        let dtype = |name: String| Some(self.places.get(&name)?.sample()?.entry.dtype);
        names.filter_map(dtype).find(|dtype| dtype.is_float())
    }

    /// Packs the layers of the model that are packed here, with zeros, and checks that every weight is there in its shape and that there
    /// is nothing else.
    pub fn fit(&self, net: &mut dyn CausalLm, scheme: &Scheme, dtype: Dtype) -> Result<()> {
        let mut layers = Vec::new();
        net.layers("", &mut layers);
        for (name, mut layer) in layers {
            let shape = layer.weight().shape();
            if let Some(how) = self.quantization(&name, &shape, scheme)? {
                *layer.weight_mut() = Weight::packed_zeros(&shape, how, dtype)
                    .map_err(|error| Error::Config(format!("{}: layer '{name}': {error}", self.dir.display())))?;
            }
        }
        let (mut missing, mut wrong, mut known) = (Vec::new(), None, HashSet::new());
        net.visit("", &mut |name, held| {
            let shape = held.shape();
            match self.places.get(&name) {
                None => missing.push((name.clone(), shape.to_vec())),
                Some(Place::Whole(at)) => wrong = wrong.take().or_else(|| self.misfit(at, shape, held.dtype())),
                Some(Place::Half(at, _)) => {
                    let both = [shape[0], shape[1].saturating_mul(2), shape[2]];
                    wrong = wrong.take().or_else(|| self.misfit(at, &both, held.dtype()));
                }
                Some(Place::Experts(experts)) => {
                    for (expert, at) in experts {
                        wrong = wrong.take().or_else(|| match *expert < shape[0] {
                            true => self.misfit(at, &shape[1..], held.dtype()),
                            false => Some(self.unknown(at)),
                        });
                    }
                    let lacking = (0..shape[0]).filter(|expert| !experts.contains_key(expert));
                    missing.extend(lacking.map(|expert| (expert_name(&name, expert), shape[1..].to_vec())));
                }
            }
            known.insert(name);
        });
        let mut unknown: Vec<&String> = self.places.keys().filter(|name| !known.contains(*name)).collect();
        unknown.sort_unstable();
        if let Some(at) = unknown.first().and_then(|name| self.places.get(*name)?.sample()) {
            return Err(self.unknown(at));
        }
        if let Some((first, shape)) = missing.first() {
            let count = missing.len();
            return Err(Error::load(&self.dir, format!("{count} weights are missing, the first is '{first}' {shape:?}")));
        }
        wrong.map_or(Ok(()), Err)
    }

    fn bad(&self, at: &At, message: String) -> Error {
        Error::load(self.files[at.file].path(), message)
    }

    fn unknown(&self, at: &At) -> Error {
        self.bad(at, format!("holds tensor '{}' {:?}, which this model does not have", at.entry.name, at.entry.shape))
    }

    fn misfit(&self, at: &At, shape: &[i32], dtype: Dtype) -> Option<Error> {
        let Entry { name, shape: found, dtype: held, .. } = &at.entry;
        if found != shape {
            return Some(self.bad(at, format!("tensor '{name}' is {found:?}; config.json makes it {shape:?}")));
        }
        let right = match dtype.is_float() {
            true => matches!(held, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16),
            false => *held == dtype,
        };
        let wanted = match dtype.is_float() {
            true => "weights must be float32, float16 or bfloat16".to_string(),
            false => format!("of a quantised layer it must be {}", dtype.name()),
        };
        (!right).then(|| self.bad(at, format!("tensor '{name}' is {}; {wanted}", held.name())))
    }

    /// How a layer of this shape is packed here, if it is: as `config.json` says, else as the shapes show. What of this contradicts other
    /// parts comes out when all is compared with the model.
    fn quantization(&self, layer: &str, shape: &[i32], scheme: &Scheme) -> Result<Option<Quantization>> {
        let at = |part: &str| self.places.get(&format!("{layer}.{part}")).and_then(Place::sample);
        let weight = at("weight");
        let Some(scales) = at("scales") else {
            let said = scheme.layer(layer).flatten().is_some();
            return match weight {
                Some(weight) if said || !weight.entry.dtype.is_float() => {
                    let name = weight.entry.name.replacen(".weight", ".scales", 1);
                    let why = if said { "config.json says that this layer is quantised" } else { "the weight is quantised" };
                    Err(self.bad(weight, format!("tensor '{name}' is missing: {why}")))
                }
                _ => Ok(None),
            };
        };
        match (scheme.layer(layer), weight) {
            (Some(Some(how)), _) => Ok(Some(how)),
            (Some(None), _) => Err(self.bad(
                scales,
                format!("holds tensor '{}', but config.json says that this layer is not quantised", scales.entry.name),
            )),
            // Reported as missing.
            (None, None) => Ok(Some(Quantization::new(QuantizationMode::Affine, None, None)?)),
            (None, Some(weight)) => {
                let last = |at: &At| at.entry.shape.last().copied().unwrap_or(0);
                let width = shape.last().copied().unwrap_or(0);
                let affine = scales.entry.dtype != Dtype::Uint8;
                inferred(width, last(weight), last(scales), affine).map(Some).ok_or_else(|| {
                    let ((w, ws), (s, ss)) =
                        ((&weight.entry.name, &weight.entry.shape), (&scales.entry.name, &scales.entry.shape));
                    self.bad(weight, format!("tensors '{w}' {ws:?} and '{s}' {ss:?} are no quantisation of a layer {shape:?}"))
                })
            }
        }
    }

    fn read(&mut self, at: &At, counts: bool) -> Result<Array> {
        if at.file != self.last {
            self.files[self.last].release();
            self.last = at.file;
        }
        let entry = at.made.as_ref().map_or(&at.entry, |made| &made.from);
        let array = self.files[at.file].read(entry)?;
        if counts {
            self.read += at.entry.length;
        }
        (self.progress)(self.read, self.total)?;
        match &at.made {
            Some(made) => self.make(at, made, &array),
            None => Ok(array),
        }
    }

    /// A part of a packed layer from what a file in another layout holds.
    fn make(&mut self, at: &At, made: &Made, array: &Array) -> Result<Array> {
        let (name, shape) = (&made.from.name, &made.from.shape);
        let unfit = || self.bad(at, format!("tensor '{name}' {shape:?} does not fit the others of its layer"));
        let whole = matches!(array.dtype(), Dtype::Int32 | Dtype::Uint32);
        if shape.len() != 2 || matches!(made.part, MadePart::Scales) == whole {
            return Err(unfit());
        }
        let made_of = match &made.part {
            MadePart::Words { groups } => {
                if let Some((groups, count)) = groups {
                    let found = self.read(groups, false)?;
                    if let Some(reason) = disorder(&found, *count)? {
                        return Err(self.bad(groups, format!("tensor '{}': {reason}", groups.entry.name)));
                    }
                }
                made.foreign.words(array)?
            }
            MadePart::Scales => array.t()?.contiguous()?,
            MadePart::Biases { scales } => {
                let wanted = made.foreign.zeros_shape(&scales.entry.shape);
                if wanted.as_ref() != Some(shape) || !scales.entry.dtype.is_float() {
                    return Err(unfit());
                }
                let scales = self.read(scales, false)?;
                made.foreign.biases(array, &scales)?
            }
        };
        Ok(made_of)
    }

    fn place(&self, name: &str) -> Result<Vec<(At, Option<bool>)>> {
        match self.places.get(name) {
            Some(Place::Whole(at)) => Ok(vec![(at.clone(), None)]),
            Some(Place::Half(at, second)) => Ok(vec![(at.clone(), Some(*second))]),
            Some(Place::Experts(experts)) => Ok(experts.values().map(|at| (at.clone(), None)).collect()),
            None => Err(Error::Internal(format!("weight '{name}' was not looked for"))),
        }
    }

    fn numbers(&mut self, (at, half): &(At, Option<bool>), dtype: Dtype) -> Result<Array> {
        let mut array = self.read(at, *half != Some(true))?;
        if let Some(second) = half {
            let rows = array.dim(1) / 2;
            let start = if *second { rows } else { 0 };
            array = array.slice_axis(1, start, start + rows)?.contiguous()?;
        }
        if array.dtype().is_float() && array.dtype() != dtype {
            array = array.astype(dtype)?;
        }
        array.eval()?;
        Ok(array)
    }

    /// A weight of the model. Numbers come in `dtype`, codes as they are.
    pub fn fetch(&mut self, name: &str, dtype: Dtype) -> Result<Array> {
        let place = self.place(name)?;
        if let ([one], true) = (place.as_slice(), !matches!(self.places.get(name), Some(Place::Experts(_)))) {
            return self.numbers(one, dtype);
        }
        let experts: Vec<Array> = place.iter().map(|at| self.numbers(at, dtype)).collect::<Result<_>>()?;
        let stacked = ops::stack(&experts, 0)?;
        stacked.eval()?;
        Ok(stacked)
    }

    /// One expert of a weight of the model, which has a tensor for each.
    pub fn fetch_expert(&mut self, name: &str, expert: i32, dtype: Dtype) -> Result<Option<Array>> {
        let Some(Place::Experts(experts)) = self.places.get(name) else { return Ok(None) };
        let Some(at) = experts.get(&expert).cloned() else { return Ok(None) };
        self.numbers(&(at, None), dtype).map(Some)
    }

    /// A layer's weight, which is numbers here, in codes. Experts are packed one by one: only their codes are together in memory.
    pub fn fetch_packed(&mut self, layer: &str, how: Quantization, dtype: Dtype) -> Result<Quantized> {
        let name = format!("{layer}.weight");
        let mut packed = Vec::new();
        for at in self.place(&name)? {
            let codes = ops::quantize(&self.numbers(&at, dtype)?, how, None)?;
            eval_codes(&codes)?;
            packed.push(codes);
        }
        if !matches!(self.places.get(&name), Some(Place::Experts(_))) {
            return packed.pop().ok_or_else(|| Error::Internal(format!("weight '{name}' has no tensor")));
        }
        let stack = |part: &dyn Fn(&Quantized) -> Option<Array>| -> Result<Option<Array>> {
            let parts: Vec<Array> = packed.iter().filter_map(part).collect();
            if parts.is_empty() { Ok(None) } else { ops::stack(&parts, 0).map(Some) }
        };
        let lost = || Error::Internal("codes without scales".into());
        let codes = Quantized {
            weight: stack(&|codes| Some(codes.weight.clone()))?.ok_or_else(lost)?,
            scales: stack(&|codes| Some(codes.scales.clone()))?.ok_or_else(lost)?,
            biases: stack(&|codes| codes.biases.clone())?,
        };
        eval_codes(&codes)?;
        Ok(codes)
    }

    /// All tensors, sorted by name, and the files that they are in: name, number of tensors, bytes of them.
    pub fn contents(&self) -> (Vec<Tensor>, Vec<(String, usize, u64)>) {
        let file_name =
            |index: usize| self.files[index].path().file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
        let mut files: Vec<(String, usize, u64)> = (0..self.files.len()).map(|index| (file_name(index), 0, 0)).collect();
        let mut tensors = Vec::new();
        for place in self.places.values() {
            let ats: Vec<&At> = match place {
                Place::Whole(at) | Place::Half(at, false) => vec![at],
                Place::Half(_, true) => continue,
                Place::Experts(experts) => experts.values().collect(),
            };
            for At { file, entry, .. } in ats {
                files[*file].1 += 1;
                files[*file].2 += entry.length;
                let (name, shape, file) = (entry.name.clone(), entry.shape.clone(), file_name(*file));
                tensors.push(Tensor { name, dtype: entry.dtype, shape, bytes: entry.length, file });
            }
        }
        tensors.sort_by(|left, right| left.name.cmp(&right.name));
        (tensors, files)
    }

    /// Tells the beginning.
    pub fn begin(&mut self) -> Result<()> {
        (self.progress)(0, self.total)
    }
}

pub(super) fn eval_codes(codes: &Quantized) -> Result<()> {
    let parts: Vec<Array> =
        [Some(&codes.weight), Some(&codes.scales), codes.biases.as_ref()].into_iter().flatten().cloned().collect();
    crate::mlx::eval(&parts)
}

/// The quantisation of rows of `width` numbers that makes so many words of codes and so many scales: there is at most one.
fn inferred(width: i32, words: i32, scales: i32, affine: bool) -> Option<Quantization> {
    if width < 1 || words < 1 || scales < 1 || width % scales != 0 || (i64::from(words) * 32) % i64::from(width) != 0 {
        return None;
    }
    let (group, bits) = (width / scales, i32::try_from(i64::from(words) * 32 / i64::from(width)).ok()?);
    let mode = match (affine, bits, group) {
        (true, ..) => QuantizationMode::Affine,
        (false, 4, 16) => QuantizationMode::Nvfp4,
        (false, 4, 32) => QuantizationMode::Mxfp4,
        (false, 8, 32) => QuantizationMode::Mxfp8,
        _ => return None,
    };
    Quantization::new(mode, Some(group), Some(bits)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_quantisation_is_told_by_its_shapes() {
        let mut seen = 0;
        for (mode, groups, widths) in [
            (QuantizationMode::Affine, &[32, 64, 128][..], &[2, 3, 4, 5, 6, 8][..]),
            (QuantizationMode::Mxfp4, &[32], &[4]),
            (QuantizationMode::Mxfp8, &[32], &[8]),
            (QuantizationMode::Nvfp4, &[16], &[4]),
        ] {
            for &group in groups {
                for &bits in widths {
                    let how = Quantization::new(mode, Some(group), Some(bits)).unwrap();
                    for width in [128, 384, 1024] {
                        let weight = Weight::packed_zeros(&[2, width], how, Dtype::Float32).unwrap();
                        let Weight::Packed(packed) = &weight else { panic!("plain") };
                        let (words, scales) = (packed.codes.weight.dim(1), packed.codes.scales.dim(1));
                        let affine = mode == QuantizationMode::Affine;
                        assert_eq!(inferred(width, words, scales, affine), Some(how));
                        assert_eq!(weight.shape(), [2, width]);
                        seen += 1;
                    }
                }
            }
        }
        assert_eq!(seen, 63);
        for (width, words, scales, affine) in [
            (64, 8, 0, true),
            (64, 8, 3, true),
            (64, 7, 1, true),
            (64, 14, 1, true),
            (64, 8, 2, false),
            (0, 8, 1, true),
            (64, 8, 4, true),
        ] {
            let found = inferred(width, words, scales, affine);
            assert_eq!(found.is_some(), (words, scales, affine) == (8, 2, false), "{width} {words} {scales}");
        }
    }
}
