//! Numbers that are known, or come out of a graph: the step and the learning rate inside a compiled function, where a known number
//! would be frozen.

use std::ops::{Add, Div, Mul, Sub};

use crate::mlx::{Array, Dtype, Result, ops};

/// A number, float64 where it is known and a float32 scalar where it is not. An error of the graph waits until `array`.
#[derive(Clone, Debug)]
pub enum Scalar {
    Known(f64),
    Lazy(Result<Array>),
}

impl From<f64> for Scalar {
    fn from(value: f64) -> Self {
        Scalar::Known(value)
    }
}

impl From<&Scalar> for Scalar {
    fn from(value: &Scalar) -> Self {
        value.clone()
    }
}

impl Scalar {
    /// The only element of an array. Whole numbers are exact up to 2^24.
    pub fn lazy(array: &Array) -> Self {
        Scalar::Lazy(array.astype(Dtype::Float32).and_then(|array| array.reshape(&[])))
    }

    /// A 0-dimensional array.
    pub fn array(&self, dtype: Dtype) -> Result<Array> {
        match self {
            Scalar::Known(value) => Array::scalar_of(*value, dtype),
            Scalar::Lazy(array) => array.clone()?.astype(dtype),
        }
    }

    pub fn is_known(&self, value: f64) -> bool {
        matches!(self, Scalar::Known(own) if *own == value)
    }

    fn map(&self, known: impl FnOnce(f64) -> f64, lazy: impl FnOnce(&Array) -> Result<Array>) -> Self {
        match self {
            Scalar::Known(value) => Scalar::Known(known(*value)),
            Scalar::Lazy(array) => Scalar::Lazy(array.clone().and_then(|array| lazy(&array))),
        }
    }

    fn join(
        &self,
        other: &Scalar,
        known: impl FnOnce(f64, f64) -> f64,
        lazy: impl FnOnce(&Array, &Array) -> Result<Array>,
    ) -> Self {
        if let (Scalar::Known(a), Scalar::Known(b)) = (self, other) {
            return Scalar::Known(known(*a, *b));
        }
        let both = || lazy(&self.array(Dtype::Float32)?, &other.array(Dtype::Float32)?);
        Scalar::Lazy(both())
    }

    pub fn min(&self, other: impl Into<Scalar>) -> Self {
        self.join(&other.into(), f64::min, Array::minimum)
    }

    pub fn max(&self, other: impl Into<Scalar>) -> Self {
        self.join(&other.into(), f64::max, Array::maximum)
    }

    pub fn sqrt(&self) -> Self {
        self.map(f64::sqrt, Array::sqrt)
    }

    pub fn cos(&self) -> Self {
        self.map(f64::cos, Array::cos)
    }

    pub fn floor(&self) -> Self {
        self.map(f64::floor, Array::floor)
    }

    pub fn powf(&self, exponent: f64) -> Self {
        self.map(|value| value.powf(exponent), |array| array.power(&Array::scalar(exponent as f32)))
    }

    /// `base` to the power of this number, for a base of at least 0. The logarithm of the base is taken in float64: a rounded base
    /// would be off by its error times the exponent.
    pub fn exponent_of(&self, base: f64) -> Self {
        if base == 0.0 {
            return self.below(0.5, || Scalar::Known(1.0), || Scalar::Known(0.0));
        }
        self.map(|exponent| base.powf(exponent), |exponent| exponent.multiply(&Array::scalar(base.ln() as f32))?.exp())
    }

    /// `1 - base^number`, without the cancellation of a base near 1 in float32.
    pub fn correction_of(&self, base: f64) -> Self {
        if base == 0.0 {
            return Scalar::Known(1.0) - self.exponent_of(base);
        }
        self.map(
            |exponent| 1.0 - base.powf(exponent),
            |exponent| exponent.multiply(&Array::scalar(base.ln() as f32))?.expm1()?.negative(),
        )
    }

    /// `yes` where this number is below `limit`, else `no`; a graph holds both.
    pub fn below(&self, limit: f64, yes: impl FnOnce() -> Scalar, no: impl FnOnce() -> Scalar) -> Self {
        match self {
            Scalar::Known(value) if *value < limit => yes(),
            Scalar::Known(_) => no(),
            Scalar::Lazy(array) => {
                let choose = || {
                    let is_below = array.clone()?.less_scalar(limit as f32)?;
                    ops::where_(&is_below, &yes().array(Dtype::Float32)?, &no().array(Dtype::Float32)?)
                };
                Scalar::Lazy(choose())
            }
        }
    }
}

macro_rules! operators {
    ($($operator:ident $method:ident $array:ident),* $(,)?) => {$(
        impl $operator<&Scalar> for &Scalar {
            type Output = Scalar;

            fn $method(self, other: &Scalar) -> Scalar {
                self.join(other, $operator::$method, Array::$array)
            }
        }

        impl $operator<Scalar> for Scalar {
            type Output = Scalar;

            fn $method(self, other: Scalar) -> Scalar {
                $operator::$method(&self, &other)
            }
        }

        impl $operator<f64> for &Scalar {
            type Output = Scalar;

            fn $method(self, other: f64) -> Scalar {
                $operator::$method(self, &Scalar::Known(other))
            }
        }

        impl $operator<f64> for Scalar {
            type Output = Scalar;

            fn $method(self, other: f64) -> Scalar {
                $operator::$method(&self, &Scalar::Known(other))
            }
        }

        impl $operator<Scalar> for f64 {
            type Output = Scalar;

            fn $method(self, other: Scalar) -> Scalar {
                $operator::$method(&Scalar::Known(self), &other)
            }
        }

        impl $operator<&Scalar> for f64 {
            type Output = Scalar;

            fn $method(self, other: &Scalar) -> Scalar {
                $operator::$method(&Scalar::Known(self), other)
            }
        }
    )*};
}

operators! { Add add add, Sub sub subtract, Mul mul multiply, Div div divide }
