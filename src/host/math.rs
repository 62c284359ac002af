//! Float functions that vectorise (libm calls do not).

/// exp(x) for x <= 0 to 2 units in the last place; below -87 it stops at the smallest normal number, NaN stays NaN.
///
/// To be called from functions with `#[multiversion]`: it is inlined there, and vectorises where the machine has a fused
/// multiply-add (which x86-64 since 2013 has; on older ones it is right, but slow).
#[inline(always)]
pub fn exp_negative(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to the nearest integer
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    // ln 2 in two parts, so that the remainder is exact
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    let mut p = 1.987_569_1e-4_f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 0.166_666_65);
    p = p.mul_add(r, 0.5);
    p = p.mul_add(r * r, r + 1.0);
    let exponent = shifted.to_bits().wrapping_sub(SHIFT.to_bits()).wrapping_add(127) << 23;
    p * f32::from_bits(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_two_units() {
        for i in 0..870_000 {
            let x = -(i as f32) * 1e-4;
            let truth = f64::from(x).exp();
            assert!((f64::from(exp_negative(x)) / truth - 1.0).abs() < 2.4e-7, "{x}");
        }
        assert_eq!(exp_negative(0.0), 1.0);
        assert!(exp_negative(f32::NAN).is_nan());
        assert!(exp_negative(f32::NEG_INFINITY) < 2e-38);
    }
}
