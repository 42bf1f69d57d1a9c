//! What is read of the last layer, and how its gradient gets back.

use super::forward::Rows;
use super::gradients::{GradientBuffers, WeightId};
use super::space::Space;
use super::{Label, Lesson, Reading, Readout};
use crate::LmError;
use crate::backend::{DecoderBackend, Part, Write};
use crate::decoder::Decoder;
use crate::kernels::gradient::LabelStatistics;

/// Bytes of logits held at once.
const LOGIT_BYTES: usize = 48 << 20;
/// Rows of logits held at once, at most and at least.
const MOST_ROWS: usize = 256;
const FEWEST_ROWS: usize = 16;

/// Rows of logits that are computed together.
pub(super) fn label_rows(vocabulary: usize) -> usize {
    (LOGIT_BYTES / (4 * vocabulary)).clamp(FEWEST_ROWS, MOST_ROWS)
}

impl<B: DecoderBackend> Decoder<B> {
    /// Forward pass and readout without gradients.
    pub(super) fn read(&self, lesson: &Lesson<'_>, space: &mut Space<B>) -> Result<Reading, LmError> {
        let mut rows = Rows::new(self, lesson.trees)?;
        self.forward_keeping(&mut rows, space, lesson, false)?;
        self.read_out(&rows, space, lesson, false)
    }

    /// One forward and one backward pass.
    pub(super) fn learn(
        &self,
        lesson: &Lesson<'_>,
        space: &mut Space<B>,
        respond: &mut dyn FnMut(&Reading) -> Vec<f32>,
        gradients: &mut GradientBuffers<'_>,
    ) -> Result<(), LmError> {
        let mut rows = Rows::new(self, lesson.trees)?;
        self.forward_keeping(&mut rows, space, lesson, true)?;
        let reading = self.read_out(&rows, space, lesson, true)?;
        let slopes = respond(&reading);
        self.read_out_gradient(&rows, space, lesson, &slopes, gradients)?;
        self.backward(&mut rows, space, lesson, gradients)
    }

    /// Reads at the rows asked for; with `keep`, also what a label's log-probability changes with.
    fn read_out(
        &self,
        rows: &Rows<B>,
        space: &mut Space<B>,
        lesson: &Lesson<'_>,
        keep: bool,
    ) -> Result<Reading, LmError> {
        let wanted: Vec<usize> = match lesson.readout {
            Readout::Labels(labels) => labels.iter().map(|label| label.row).collect(),
            Readout::Hidden(rows) | Readout::Logits(rows) => rows.to_vec(),
        };
        self.check_readout(rows, &wanted, lesson)?;
        let readout = &mut space.readout;
        self.backend.select(&space.work.x, &wanted, &mut readout.selected)?;
        self.backend.rms_norm(
            &readout.selected,
            &self.base.final_norm,
            self.config.norm_eps,
            &mut readout.hidden,
        )?;
        match lesson.readout {
            Readout::Hidden(_) => {
                let mut values = Vec::new();
                self.backend.to_host(&readout.hidden, &mut values)?;
                Ok(Reading::Hidden(values))
            }
            Readout::Logits(_) => {
                self.backend.product(
                    &readout.hidden,
                    self.exact_head(),
                    &mut readout.logits,
                    Write::Replace,
                )?;
                let mut values = Vec::new();
                self.backend.to_host(&readout.logits, &mut values)?;
                Ok(Reading::Logits(values))
            }
            Readout::Labels(labels) => Ok(Reading::Labels(self.read_labels(labels, space, keep)?)),
        }
    }

    fn check_readout(&self, rows: &Rows<B>, wanted: &[usize], lesson: &Lesson<'_>) -> Result<(), LmError> {
        if let Some(row) = wanted.iter().find(|row| **row >= rows.step.rows()) {
            return Err(LmError::Request(format!("row {row} of a batch of {}", rows.step.rows())));
        }
        let Readout::Labels(labels) = lesson.readout else { return Ok(()) };
        match labels.iter().find(|label| label.token as usize >= self.config.vocab_size) {
            Some(label) => Err(LmError::Request(format!("token {} is not in the vocabulary", label.token))),
            None => Ok(()),
        }
    }

    /// Chunk by chunk: logits, statistics, and with `keep` the derivative of each log-probability by its hidden state,
    /// `W^T (onehot - softmax)`. Coefficients come later: they are one factor for each row.
    fn read_labels(
        &self,
        labels: &[Label],
        space: &mut Space<B>,
        keep: bool,
    ) -> Result<Vec<LabelStatistics>, LmError> {
        let (backend, readout) = (&self.backend, &mut space.readout);
        if keep {
            backend.zeros(labels.len(), self.config.hidden_size, &mut readout.unit)?;
        }
        let mut statistics = Vec::with_capacity(labels.len());
        let step = label_rows(self.config.vocab_size);
        for (index, chunk) in labels.chunks(step).enumerate() {
            let places: Vec<usize> = (index * step..index * step + chunk.len()).collect();
            let tokens: Vec<u32> = chunk.iter().map(|label| label.token).collect();
            backend.select(&readout.hidden, &places, &mut readout.chunk)?;
            backend.product(&readout.chunk, self.exact_head(), &mut readout.logits, Write::Replace)?;
            statistics.extend(backend.label_statistics(&mut readout.logits, &tokens)?);
            if keep {
                let transposed = self.transposed_head()?;
                backend.product(&readout.logits, transposed, &mut readout.part, Write::Replace)?;
                backend.add_rows(&readout.part, &places, &vec![1.0; places.len()], &mut readout.unit)?;
            }
        }
        Ok(statistics)
    }

    /// From the loss's derivatives to the gradient of the last layer's output.
    fn read_out_gradient(
        &self,
        rows: &Rows<B>,
        space: &mut Space<B>,
        lesson: &Lesson<'_>,
        slopes: &[f32],
        gradients: &mut GradientBuffers<'_>,
    ) -> Result<(), LmError> {
        let (backend, hidden) = (&self.backend, self.config.hidden_size);
        let wanted: Vec<usize> = match lesson.readout {
            Readout::Logits(_) => return Err(LmError::Request("logits have no gradient here".to_owned())),
            Readout::Labels(labels) => {
                expect(slopes.len(), labels.len())?;
                let places: Vec<usize> = (0..labels.len()).collect();
                backend.zeros(labels.len(), hidden, &mut space.readout.part)?;
                backend.add_rows(&space.readout.unit, &places, slopes, &mut space.readout.part)?;
                self.add_head_gradient(labels, slopes, space, gradients)?;
                labels.iter().map(|label| label.row).collect()
            }
            Readout::Hidden(rows) => {
                expect(slopes.len(), rows.len() * hidden)?;
                backend.zeros(rows.len(), hidden, &mut space.readout.part)?;
                backend.upload(slopes, hidden, &mut space.readout.unit)?;
                let places: Vec<usize> = (0..rows.len()).collect();
                let ones = vec![1.0; rows.len()];
                backend.add_rows(&space.readout.unit, &places, &ones, &mut space.readout.part)?;
                rows.to_vec()
            }
        };
        let readout = &mut space.readout;
        if let Some(out) = gradients.get(WeightId::FinalNorm) {
            let x = Part { buffer: &readout.selected, columns: 0..hidden };
            let dy = Part { buffer: &readout.part, columns: 0..hidden };
            backend.add_norm_weight_gradient(x, dy, self.config.norm_eps, out)?;
        }
        backend.zeros(wanted.len(), hidden, &mut readout.unit)?;
        let eps = self.config.norm_eps;
        backend.rms_norm_gradient(
            &readout.selected,
            &self.base.final_norm,
            eps,
            &readout.part,
            &mut readout.unit,
        )?;
        backend.zeros(rows.step.rows(), hidden, &mut space.slope.x)?;
        backend.add_rows(&readout.unit, &wanted, &vec![1.0; wanted.len()], &mut space.slope.x)
    }

    /// The gradient of the vocabulary matrix, where it is trained: the logits' gradients are computed once more, since
    /// their factors were not known before.
    fn add_head_gradient(
        &self,
        labels: &[Label],
        slopes: &[f32],
        space: &mut Space<B>,
        gradients: &mut GradientBuffers<'_>,
    ) -> Result<(), LmError> {
        let id = if self.base.head.is_some() { WeightId::Head } else { WeightId::Embedding };
        let Some(out) = gradients.get(id) else { return Ok(()) };
        let (backend, readout) = (&self.backend, &mut space.readout);
        let (vocabulary, hidden) = (self.config.vocab_size, self.config.hidden_size);
        let step = label_rows(vocabulary);
        for (index, chunk) in labels.chunks(step).enumerate() {
            let places: Vec<usize> = (index * step..index * step + chunk.len()).collect();
            let tokens: Vec<u32> = chunk.iter().map(|label| label.token).collect();
            backend.select(&readout.hidden, &places, &mut readout.chunk)?;
            backend.product(&readout.chunk, self.exact_head(), &mut readout.logits, Write::Replace)?;
            backend.label_statistics(&mut readout.logits, &tokens)?;
            let own: Vec<usize> = (0..chunk.len()).collect();
            backend.zeros(chunk.len(), hidden, &mut space.slope.scratch.spare)?;
            let factors = &slopes[index * step..index * step + chunk.len()];
            backend.add_rows(&readout.chunk, &own, factors, &mut space.slope.scratch.spare)?;
            let dy = Part { buffer: &readout.logits, columns: 0..vocabulary };
            let x = Part { buffer: &space.slope.scratch.spare, columns: 0..hidden };
            backend.add_weight_gradient(dy, x, 1.0, out)?;
        }
        Ok(())
    }

    fn exact_head(&self) -> &B::Matrix {
        self.head_backward.as_ref().and_then(|other| other.exact.as_ref()).unwrap_or_else(|| self.head())
    }

    fn transposed_head(&self) -> Result<&B::Matrix, LmError> {
        self.head_backward.as_ref().map(|other| &other.transposed).ok_or_else(super::weights::not_prepared)
    }
}

fn expect(found: usize, wanted: usize) -> Result<(), LmError> {
    if found == wanted {
        return Ok(());
    }
    Err(LmError::Request(format!("{found} derivatives of a loss over {wanted} values")))
}
