// The torch operators that rnnfast defines. Nothing else.
//
// Shapes: T steps, B rows of the batch, G groups (directions, heads), H units, K = gates * H, P units of the
// state (H, unless w_hr projects it). Padded arrays are (T, B, G, ...), or (B, T, G, ...) with batch_first;
// with batch_sizes (T,), int64, on the CPU, they are packed as in torch's PackedSequence: (N, G, ...).
// direction: 0 forward, 1 reverse, 2 odd groups reverse. cell: "elman_tanh", "elman_relu", "lstm", "gru".
// "layer_norm_lstm", on the CPU: cells/layer_norm_lstm.h, where b_hh is what that calls its vector, (G, K + 2
// H), and there are no w_ih, w_hr and b_ih; it saves what an LSTM does, further N(c) (T, B, G, H), N(W_hh h)
// (T, B, G, K) and their scales (T, B, G, 2).
//
// precision: of float32 on CUDA; "ieee", or "tf32", where products may round to TF32; absent: in full, but
// for products of all steps and products step by step, which are as torch's own are set. beside: how many
// other recurrences are to run at the same time on the GPU; each is planned for its share.
#include "library.h"

RNNFAST_LIBRARY(m) {
  // A layer. With w_ih, (G K, I), input is (T, B, I) and so on, and y (T, B, G P). Without, input is
  // projected already, (T, B, G, K), and y is (T, B, G, P). w_hh (G, K, P), or (K, P) where G is 1; w_hr (G,
  // P, H) or (P, H); biases of G K values; h0 (G, B, P), c0 (G, B, H), absent: zero. Returns y, h_n (G, B,
  // P), for an LSTM c_n (G, B, H); with `saves` also what BPTT needs, in this order: activations (T, B, G,
  // K), c (T, B, G, H) for an LSTM, activations and W_hn h + b_hn (T, B, G, H) for a GRU, o tanh(c) (T, B, G,
  // H) with w_hr; with noise, of an Elman RNN activations, too. noise: probabilities with which candidates
  // are dropped, for all steps alike, and h, and of an LSTM c, stay what they were. seed, int64 (2,), where
  // the input is: what is random is a function of the first number and of (group, step, row, unit), where
  // steps are counted from the lower 32 bits of the second number, groups from the upper ones; without a seed
  // all is as it would be on average. clip: for the adjoint, below; of no effect here. stretches, on the CPU:
  // as `stretches` below returns them, if they cover all steps; they are what the rows of h0 and h_n are
  // then, while those of the padded arrays stay what they are.
  m.def(
      "recurrence(Tensor input, Tensor? w_ih, Tensor w_hh, Tensor? w_hr, Tensor? b_ih, Tensor? b_hh, "
      "Tensor? h0, Tensor? c0, str cell, int direction=0, bool batch_first=False, Tensor? batch_sizes=None, "
      "bool saves=False, Tensor? stretches=None, Tensor? seed=None, *, float[]? noise=None, float? "
      "clip=None, "
      "str? precision=None, int beside=0) -> Tensor[]");
  // Its adjoint. dy, dh_n and dc_n like y, h_n and c_n, dc (T, B, G, H) for every cell state, each absent
  // where zero; saved: what recurrence returned beyond its results; input may be absent where w_ih is. b_ih
  // and b_hh are of no effect: derivatives of this need them. Returns the gradients for input, w_ih, w_hh,
  // w_hr, b_ih, b_hh, h0 and c0; those for what lies between, W_ih x + b_ih, (T, B, G, K), and a GRU's W_hn h
  // + b_hn, (T, B, G, H); and the norms of dL/dh_t, (T, B, G), float32 or float64, before it is clipped.
  // Those not in `needs`, a sum of 1, 2, 4, ... in this order, or that there are not, are empty. clip:
  // dL/dh_t and dL/dc_t, all told, are kept between -clip and clip at each step.
  m.def(
      "recurrence_bptt(Tensor? dy, Tensor? dh_n, Tensor? dc_n, Tensor? dc, Tensor? input, Tensor? w_ih, "
      "Tensor w_hh, Tensor? w_hr, Tensor? b_ih, Tensor? b_hh, Tensor? h0, Tensor? c0, Tensor y, "
      "Tensor[] saved, str cell, int direction, bool batch_first, Tensor? batch_sizes, int needs, "
      "Tensor? stretches=None, Tensor? seed=None, *, float[]? noise=None, float? clip=None, "
      "str? precision=None, int beside=0) -> Tensor[]");
  // One step: input (B, I), h (B, H), c (B, H) for an LSTM, w_ih (K, I), w_hh (K, H), biases (K). Returns h,
  // and c for an LSTM.
  m.def(
      "cell(Tensor input, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor h, Tensor? c, str "
      "cell) "
      "-> Tensor[]");
  // A layer for inference with weights of 8 bits: of each matrix the weights, int8 (G, ceil(units / 16),
  // ceil(columns / 2), gates, 16, 2), and their scales, float32 (G, ceil(units / 16), gates, 16), as
  // csrc/cpu/int8.h has them; all else is float32. Returns y, h_n, for an LSTM
  // c_n.
  m.def(
      "recurrence_int8(Tensor input, Tensor[] w_ih, Tensor[] w_hh, Tensor[] w_hr, Tensor? b_ih, Tensor? "
      "b_hh, "
      "Tensor? h0, Tensor? c0, str cell, int H, int P, int direction=0, bool batch_first=False, "
      "Tensor? batch_sizes=None) -> Tensor[]");
  // A padded batch of so many steps and rows, (T, B, ...) or (B, T, ...) with batch_first, cut into
  // stretches: a row ends at its length, int64 (B,), and begins anew before each step where reset, bool (T,
  // B), is true. Both on the CPU. As rows of a packed batch, the longest first: with `packs` batch_sizes;
  // where each packed step lies among the padded ones, (N,); the inverse, (T B,), -1 where nothing is packed;
  // of which row each stretch is, its first step and how many it has, int64 (3, S); whether it begins with
  // what its row begins with, in time and against it, bool (2, S); each row's last stretch in time and
  // against it, (2, B), any for a row without steps; which rows those are, bool (B,).
  m.def(
      "stretches(Tensor? lengths, Tensor? reset, int steps, int rows, bool batch_first, bool packs) "
      "-> Tensor[]");
  // The rows of an array (..., W) at `index`, (M,) int64 on the CPU, counting through its leading axes; zeros
  // for -1. As an array (*lead, W). inverse: where each row goes, -1 where nowhere: by it and `index` in turn
  // the gradient is formed.
  m.def("rows_at(Tensor rows, Tensor index, Tensor inverse, int[] lead) -> Tensor");
  // The plan that the calling thread's latest rnnfast operator ran by; empty before the first.
  m.def("last_plan() -> str");
  // What the calling thread's further operators are run by, in place of the planner's choice; None: its
  // choice.
  m.def("wish_plan(str? schedule=None, str? weights=None, int? workers=None) -> ()");
  // The same on CUDA; rows: of the batch, for a block of threads or a crew; crew: blocks that share rows;
  // cluster: blocks of each of a grid's clusters.
  m.def("last_cuda_plan() -> str");
  m.def(
      "wish_cuda_plan(str? schedule=None, int? rows=None, int? crew=None, str? arithmetic=None, "
      "int? cluster=None) -> ()");
  // Clusters of so many blocks that run at the same time on a GPU, where each has a multiprocessor.
  m.def("cuda_clusters(int device, int size) -> int");
}
