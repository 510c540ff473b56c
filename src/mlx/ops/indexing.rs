//! Index expressions: `a[1, ::2, ..., None, indices]` and their updates, with the rules of Python's MLX (which are NumPy's).

use super::{arange, check, where_};
use crate::mlx::{Array, Dtype, Error, Result};

/// One entry of an index expression.
pub enum Index {
    /// One place; the axis goes. Negative places count from the end.
    At(i32),
    /// Python's `start:stop:step`.
    Slice { start: Option<i32>, stop: Option<i32>, step: i32 },
    /// A new axis of size 1.
    NewAxis,
    /// As many whole axes as the other entries leave; at most one.
    Ellipsis,
    /// Places of one axis, integers of any shape; the axis becomes the axes of this array. With several of them (places count as
    /// such then) they are broadcast together. What lies outside the axis moves to its nearest place, as the values are not known
    /// before evaluation. Or, in updates only and alone, booleans: the elements to change.
    Gather(Array),
}

/// How an update changes the elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateMode {
    /// Replaced. Of several values for one place any may win.
    Set,
    Add,
    Multiply,
    Maximum,
    Minimum,
}

impl UpdateMode {
    pub fn parse(name: &str) -> Result<UpdateMode> {
        check::one_of("indexUpdate", "mode", name, &["set", "add", "multiply", "maximum", "minimum"])?;
        Ok(match name {
            "add" => UpdateMode::Add,
            "multiply" => UpdateMode::Multiply,
            "maximum" => UpdateMode::Maximum,
            "minimum" => UpdateMode::Minimum,
            _ => UpdateMode::Set,
        })
    }
}

/// What happens to one axis of the array.
enum Part {
    At(i32),
    Range { start: i32, stop: i32, step: i32, count: i32 },
    Gather(Array),
}

/// An axis of the result.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Of size 1.
    New,
    /// What is left of an axis of the array.
    Axis(usize),
    /// One of the axes of the broadcast index arrays.
    Block(usize),
}

/// A checked index expression for an array of one shape.
struct Selection {
    parts: Vec<Part>,
    places: Vec<Place>,
    /// The shape that the index arrays are broadcast to.
    block: Vec<i32>,
}

impl Selection {
    fn new(op: &str, array: &Array, indices: Vec<Index>) -> Result<Selection> {
        let ndim = array.ndim();
        let used = indices.iter().filter(|index| !matches!(index, Index::NewAxis | Index::Ellipsis)).count();
        if used > ndim {
            return Err(Error::Shape(format!("{op}: {used} indices for an array of shape {:?}", array.shape())));
        }
        if indices.iter().filter(|index| matches!(index, Index::Ellipsis)).count() > 1 {
            return Err(Error::Argument(format!("{op}: at most one '...' can stand in an index expression")));
        }
        let gathers = indices.iter().any(|index| matches!(index, Index::Gather(_)));
        let open = !indices.iter().any(|index| matches!(index, Index::Ellipsis));
        let mut selection = Selection { parts: Vec::new(), places: Vec::new(), block: Vec::new() };
        // Where the axes of the index arrays go: where the first stands, or before all others when something stands between them.
        let mut first = None;
        let mut apart = false;
        let whole = |selection: &mut Selection, count: usize| {
            for _ in 0..count {
                let axis = selection.parts.len();
                let size = array.shape()[axis];
                selection.parts.push(Part::Range { start: 0, stop: size, step: 1, count: size });
                selection.places.push(Place::Axis(axis));
            }
        };
        for index in indices {
            let axis = selection.parts.len();
            if matches!(index, Index::At(_) | Index::Gather(_)) {
                let place = selection.places.len();
                apart |= *first.get_or_insert(place) != place;
            }
            match index {
                Index::NewAxis => selection.places.push(Place::New),
                Index::Ellipsis => whole(&mut selection, ndim - used),
                Index::At(at) => selection.parts.push(Part::At(inside(op, at, axis, array.shape()[axis])?)),
                Index::Slice { start, stop, step } => {
                    selection.parts.push(range(op, start, stop, step, array.shape()[axis])?);
                    selection.places.push(Place::Axis(axis));
                }
                Index::Gather(places) => {
                    check::integer(op, "an index array", &places)?;
                    selection.block = check::broadcast(op, &selection.block, places.shape())?;
                    selection.parts.push(Part::Gather(places));
                }
            }
        }
        if open {
            whole(&mut selection, ndim - used);
        }
        if gathers {
            let place = if apart { 0 } else { first.unwrap_or(0) };
            selection.places.splice(place..place, (0..selection.block.len()).map(Place::Block));
        }
        Ok(selection)
    }

    fn size(&self, place: Place) -> i32 {
        match place {
            Place::New => 1,
            Place::Block(index) => self.block[index],
            Place::Axis(axis) => match self.parts[axis] {
                Part::Range { count, .. } => count,
                _ => 1,
            },
        }
    }

    /// The shape of what is selected.
    fn shape(&self) -> Vec<i32> {
        self.places.iter().map(|&place| self.size(place)).collect()
    }

    /// Starts, stops and steps of the ranges and single places; whole axes where index arrays are.
    fn bounds(&self, shape: &[i32]) -> [Vec<i32>; 3] {
        let mut bounds = [vec![], vec![], vec![]];
        for (part, &size) in self.parts.iter().zip(shape) {
            let one = match *part {
                Part::At(at) => [at, at + 1, 1],
                Part::Range { start, stop, step, .. } => [start, stop, step],
                Part::Gather(_) => [0, size, 1],
            };
            bounds.iter_mut().zip(one).for_each(|(list, value)| list.push(value));
        }
        bounds
    }

    /// Whether an axis stays as it is.
    fn is_whole(&self, axis: usize, size: i32) -> bool {
        matches!(self.parts[axis], Part::Range { step: 1, count, .. } if count == size)
    }

    fn read(&self, array: &Array) -> Result<Array> {
        let shape = array.shape();
        let mut result = array.clone();
        if !(0..shape.len()).all(|axis| self.is_whole(axis, shape[axis]) || matches!(self.parts[axis], Part::Gather(_))) {
            let [start, stop, step] = self.bounds(shape);
            result = result.slice_strided(&start, &stop, &step)?;
        }
        // The axes that `result` has, in its order.
        let mut order: Vec<Place> = (0..shape.len()).map(Place::Axis).collect();
        let (axes, arrays): (Vec<i32>, Vec<&Array>) = self.gathers().unzip();
        if !axes.is_empty() {
            let mut lengths = result.shape().to_vec();
            axes.iter().for_each(|&axis| lengths[axis as usize] = 1);
            result = result.gather(&arrays, &axes, &lengths)?;
            order.splice(0..0, (0..self.block.len()).map(Place::Block));
        }
        let gone: Vec<i32> = (0..order.len() as i32)
            .filter(
                |&index| matches!(order[index as usize], Place::Axis(axis) if !matches!(self.parts[axis], Part::Range { .. })),
            )
            .collect();
        if !gone.is_empty() {
            result = result.squeeze(&gone)?;
            order.retain(|place| !matches!(place, Place::Axis(axis) if !matches!(self.parts[*axis], Part::Range { .. })));
        }
        let wanted = self.places.iter().filter(|&&place| place != Place::New);
        let axes: Vec<i32> =
            wanted.filter_map(|place| order.iter().position(|one| one == place)).map(|axis| axis as i32).collect();
        if !axes.is_sorted() {
            result = result.transpose(&axes)?;
        }
        let new: Vec<i32> =
            (0..self.places.len()).filter(|&index| self.places[index] == Place::New).map(|axis| axis as i32).collect();
        if new.is_empty() { Ok(result) } else { result.expand_dims(&new) }
    }

    fn gathers(&self) -> impl Iterator<Item = (i32, &Array)> {
        self.parts.iter().enumerate().filter_map(|(axis, part)| match part {
            Part::Gather(array) => Some((axis as i32, array)),
            _ => None,
        })
    }

    fn write(&self, array: &Array, values: &Array, mode: UpdateMode) -> Result<Array> {
        let selected = self.shape();
        let extra = values.ndim().saturating_sub(selected.len());
        if !check::broadcasts_to(&values.shape()[extra..], &selected) || values.shape()[..extra].iter().any(|&size| size != 1) {
            return Err(Error::Shape(format!(
                "indexUpdate: values of shape {:?} do not broadcast to the selected {selected:?}",
                values.shape()
            )));
        }
        let mut sizes = vec![1; selected.len().saturating_sub(values.ndim())];
        sizes.extend(&values.shape()[extra..]);
        let values = values.astype(array.dtype())?;
        let (axes, _): (Vec<i32>, Vec<&Array>) = self.gathers().unzip();
        if axes.is_empty() {
            let mut inner = vec![1; array.ndim()];
            for (&place, &size) in self.places.iter().zip(&sizes) {
                if let Place::Axis(axis) = place {
                    inner[axis] = size;
                }
            }
            let values = values.reshape(&inner)?;
            let [start, stop, step] = self.bounds(array.shape());
            return match mode {
                UpdateMode::Set => array.slice_update_strided(&values, &start, &stop, &step),
                UpdateMode::Add => array.slice_update_add(&values, &start, &stop, &step),
                UpdateMode::Multiply => array.slice_update_prod(&values, &start, &stop, &step),
                UpdateMode::Maximum => array.slice_update_max(&values, &start, &stop, &step),
                UpdateMode::Minimum => array.slice_update_min(&values, &start, &stop, &step),
            };
        }
        self.scatter(array, &values.reshape(&sizes)?, mode)
    }

    /// An update with index arrays. Ranges that are not whole axes become index arrays too, with an axis of their own after those
    /// of the others; whole axes are the slices that are written.
    fn scatter(&self, array: &Array, values: &Array, mode: UpdateMode) -> Result<Array> {
        let shape = array.shape();
        let ranges: Vec<usize> = (0..shape.len())
            .filter(|&axis| matches!(self.parts[axis], Part::Range { .. }) && !self.is_whole(axis, shape[axis]))
            .collect();
        let outer = self.block.len() + ranges.len();
        let (mut axes, mut arrays) = (Vec::new(), Vec::new());
        for (axis, part) in self.parts.iter().enumerate() {
            let places = match part {
                Part::Gather(places) => {
                    let padded = [&vec![1; self.block.len() - places.ndim()], places.shape(), &vec![1; ranges.len()]].concat();
                    places.reshape(&padded)?
                }
                Part::At(at) => Array::scalar_i32(*at),
                Part::Range { .. } if self.is_whole(axis, shape[axis]) => continue,
                &Part::Range { start, step, count, .. } => {
                    let mut own = vec![1; outer];
                    if let Some(index) = ranges.iter().position(|&range| range == axis) {
                        own[self.block.len() + index] = count;
                    }
                    let end = f64::from(start) + f64::from(step) * f64::from(count);
                    arange(f64::from(start), end, f64::from(step), Dtype::Int32)?.reshape(&own)?
                }
            };
            axes.push(axis as i32);
            arrays.push(places);
        }
        // The values in the order that scatter wants: index arrays, ranges, then one size for every axis.
        let whole: Vec<usize> = (0..shape.len()).filter(|&axis| self.is_whole(axis, shape[axis])).collect();
        let wanted = (0..self.block.len()).map(Place::Block).chain(ranges.iter().chain(&whole).map(|&axis| Place::Axis(axis)));
        let fresh: Vec<i32> =
            (0..self.places.len()).filter(|&index| self.places[index] == Place::New).map(|axis| axis as i32).collect();
        let kept: Vec<Place> = self.places.iter().copied().filter(|&place| place != Place::New).collect();
        let order: Vec<i32> =
            wanted.filter_map(|place| kept.iter().position(|&one| one == place)).map(|axis| axis as i32).collect();
        let mut updates = values.broadcast_to(&self.shape())?;
        if !fresh.is_empty() {
            updates = updates.squeeze(&fresh)?;
        }
        let mut full = self.block.clone();
        full.extend(ranges.iter().map(|&axis| self.size(Place::Axis(axis))));
        full.extend((0..shape.len()).map(|axis| if whole.contains(&axis) { shape[axis] } else { 1 }));
        let updates = updates.transpose(&order)?.reshape(&full)?;
        match mode {
            UpdateMode::Set => array.scatter(&arrays, &updates, &axes),
            UpdateMode::Add => array.scatter_add(&arrays, &updates, &axes),
            UpdateMode::Multiply => array.scatter_prod(&arrays, &updates, &axes),
            UpdateMode::Maximum => array.scatter_max(&arrays, &updates, &axes),
            UpdateMode::Minimum => array.scatter_min(&arrays, &updates, &axes),
        }
    }
}

/// The place of an index that may count from the end.
fn inside(op: &str, at: i32, axis: usize, size: i32) -> Result<i32> {
    let place = if at < 0 { i64::from(at) + i64::from(size) } else { i64::from(at) };
    if (0..i64::from(size)).contains(&place) {
        return Ok(place as i32);
    }
    Err(Error::Shape(format!("{op}: index {at} is outside axis {axis} of size {size}")))
}

/// Python's rules for slices: bounds count from the end when negative and are cut to the axis.
fn range(op: &str, start: Option<i32>, stop: Option<i32>, step: i32, size: i32) -> Result<Part> {
    if step == 0 {
        return Err(Error::Argument(format!("{op}: the step of a slice is 0")));
    }
    let (size, wide) = (i64::from(size), i64::from(step));
    let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
    let bound = |given: Option<i32>, default: i64| match given.map(i64::from) {
        None => default,
        Some(value) => (if value < 0 { value + size } else { value }).clamp(low, high),
    };
    let (first, last) = if step > 0 { (bound(start, low), bound(stop, high)) } else { (bound(start, high), bound(stop, low)) };
    let reach = if step > 0 { last - first } else { first - last };
    let count = if reach > 0 { (reach + wide.abs() - 1) / wide.abs() } else { 0 };
    if count == 0 {
        return Ok(Part::Range { start: 0, stop: 0, step: 1, count: 0 });
    }
    // Before the first element is -size - 1 for MLX: -1 is the last.
    let stop = if last == -1 { -size - 1 } else { last };
    Ok(Part::Range { start: first as i32, stop: stop as i32, step, count: count as i32 })
}

fn is_mask(index: &Index) -> bool {
    matches!(index, Index::Gather(array) if array.dtype() == Dtype::Bool)
}

impl Array {
    /// What an index expression selects.
    pub fn index(&self, indices: Vec<Index>) -> Result<Array> {
        if indices.iter().any(is_mask) {
            return Err(Error::Dtype(
                "index: a mask of booleans cannot be read, for the size of the result depends on its values. Use where(mask, a, other), \
                 or index by the whole numbers at which the mask holds; indexUpdate takes masks"
                    .into(),
            ));
        }
        Selection::new("index", self, indices)?.read(self)
    }

    /// A copy in which what an index expression selects is changed by `values`, which are broadcast to it and take this array's
    /// dtype.
    pub fn index_update(&self, indices: Vec<Index>, values: &Array, mode: UpdateMode) -> Result<Array> {
        if indices.iter().any(is_mask) {
            return match &indices[..] {
                [Index::Gather(mask)] => self.mask_update(mask, values, mode),
                _ => Err(Error::Argument("indexUpdate: a mask of booleans stands alone, without other indices".into())),
            };
        }
        Selection::new("indexUpdate", self, indices)?.write(self, values, mode)
    }

    /// The mask has the shape of this array or of its first axes. One value for all, or in mode `Set` one for each place.
    fn mask_update(&self, mask: &Array, values: &Array, mode: UpdateMode) -> Result<Array> {
        if !self.shape().starts_with(mask.shape()) {
            let (mask, shape) = (mask.shape(), self.shape());
            return Err(Error::Shape(format!("indexUpdate: a mask of shape {mask:?} does not cover {shape:?}")));
        }
        if values.size() != 1 {
            return match mode {
                UpdateMode::Set => self.masked_scatter(mask, values),
                _ => Err(Error::Shape(
                    "indexUpdate: with a mask of booleans only mode 'set' takes more than one value; use where(mask, a.add(values), a) \
                     and the like"
                        .into(),
                )),
            };
        }
        let mask = mask.reshape(&[mask.shape(), &vec![1; self.ndim() - mask.ndim()]].concat())?;
        let value = values.reshape(&[])?.astype(self.dtype())?;
        let changed = match mode {
            UpdateMode::Set => value,
            UpdateMode::Add => self.add(&value)?,
            UpdateMode::Multiply => self.multiply(&value)?,
            UpdateMode::Maximum => self.maximum(&value)?,
            UpdateMode::Minimum => self.minimum(&value)?,
        };
        where_(&mask, &changed, self)
    }
}
