use std::ops::Range;

use candle_core::{D, DType, Tensor};

use super::{CandleBackend, CandleBuffer, softmax, written};
use crate::LmError;
use crate::backend::{EncoderBackend, EncoderHeads};

impl EncoderBackend for CandleBackend {
    fn layer_norm(
        &self,
        x: &mut CandleBuffer,
        weight: &Tensor,
        bias: &Tensor,
        eps: f32,
    ) -> Result<(), LmError> {
        let wide = written(x)?.to_dtype(DType::F32)?;
        let centred = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = centred.broadcast_div(&(variance + f64::from(eps))?.sqrt()?)?.to_dtype(self.dtype)?;
        *x = Some(normed.broadcast_mul(weight)?.broadcast_add(bias)?);
        Ok(())
    }

    fn gelu(&self, x: &mut CandleBuffer) -> Result<(), LmError> {
        *x = Some(written(x)?.gelu_erf()?);
        Ok(())
    }

    fn attend_within(
        &self,
        heads: EncoderHeads,
        qkv: &CandleBuffer,
        sequences: &[Range<usize>],
        out: &mut CandleBuffer,
    ) -> Result<(), LmError> {
        let all = written(qkv)?;
        let width = heads.count * heads.dim;
        let outputs = sequences
            .iter()
            .map(|rows| {
                let part = |index: usize| -> Result<Tensor, LmError> {
                    let columns = all.narrow(0, rows.start, rows.len())?.narrow(1, index * width, width)?;
                    let by_head = columns.contiguous()?.reshape((rows.len(), heads.count, heads.dim))?;
                    Ok(by_head.transpose(0, 1)?.to_dtype(DType::F32)?.contiguous()?)
                };
                let queries = (part(0)? * (1.0 / (heads.dim as f64).sqrt()))?;
                let scores = queries.matmul(&part(1)?.transpose(1, 2)?.contiguous()?)?;
                let attended = softmax(&scores)?.matmul(&part(2)?)?;
                Ok(attended
                    .transpose(0, 1)?
                    .contiguous()?
                    .reshape((rows.len(), width))?
                    .to_dtype(self.dtype)?)
            })
            .collect::<Result<Vec<Tensor>, LmError>>()?;
        *out = Some(Tensor::cat(&outputs, 0)?);
        Ok(())
    }

    fn download(&self, x: &CandleBuffer, out: &mut Vec<f32>) -> Result<(), LmError> {
        *out = written(x)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        Ok(())
    }
}
