// The torch operators that rnnfast defines. Nothing else.
//
// Shapes: T steps, B rows of the batch, G groups (directions, heads), H units, K = gates * H. Padded arrays
// are (T, B, G, ...), or (B, T, G, ...) with batch_first; with batch_sizes (T,), int64, on the CPU, they are
// packed as in torch's PackedSequence: (N, G, ...). direction: 0 forward, 1 reverse, 2 odd groups reverse.
//
// reset, seed, clip, norms and precision are places kept for options that no kernel offers yet; anything but
// the default is refused.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(rnnfast, m) {
  // gates: W_ih x (+ bias), (T, B, G, H); w_hh (G, H, H); bias (G, H); h0 (G, B, H), absent: zero.
  // Returns y (T, B, G, H) and h_n (G, B, H).
  m.def(
      "elman(Tensor gates, Tensor w_hh, Tensor? bias, Tensor? h0, str nonlinearity, int direction=0, "
      "bool batch_first=False, Tensor? batch_sizes=None, *, Tensor? reset=None, int? seed=None, "
      "str? precision=None) -> (Tensor, Tensor)");
  // dy like y, dh_n like h_n, each absent where zero. Returns the gradient of the loss for gates.
  m.def(
      "elman_bptt(Tensor? dy, Tensor? dh_n, Tensor y, Tensor w_hh, str nonlinearity, int direction=0, "
      "bool batch_first=False, Tensor? batch_sizes=None, *, Tensor? reset=None, int? seed=None, "
      "float? clip=None, Tensor(a!)? norms=None, str? precision=None) -> Tensor");
  // A whole layer: input (T, B, I), (B, T, I) or (N, I); w_ih (G K, I); w_hh (G, K, H) or (K, H); biases of G
  // K values. Returns y, (T, B, G H) and so on, and h_n. Products of at least onednn_from multiplications go
  // to oneDNN.
  m.def(
      "elman_layer(Tensor input, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? h0, "
      "str nonlinearity, int direction=0, bool batch_first=False, Tensor? batch_sizes=None, "
      "bool onednn=False) -> (Tensor, Tensor)");
  // One step, (B, H): input (B, I), h (B, H), w_ih (H, I), w_hh (H, H), biases (H).
  m.def(
      "elman_cell(Tensor input, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor h, "
      "str nonlinearity) -> Tensor");
  // The adjoint of elman_layer: the gradients for input, w_ih, w_hh, b_ih, b_hh and h0; those not in `needs`
  // are empty (needs: a sum of 1, 2, 4, 8, 16, 32, in this order).
  m.def(
      "elman_layer_bptt(Tensor? dy, Tensor? dh_n, Tensor input, Tensor w_ih, Tensor w_hh, Tensor? h0, Tensor "
      "y, "
      "str nonlinearity, int direction, bool batch_first, Tensor? batch_sizes, int needs, "
      "bool onednn=False) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  // The plan that the calling thread's latest rnnfast operator ran by; empty before the first.
  m.def("last_plan() -> str");
  // What the calling thread's further operators are run by, in place of the planner's choice; None: its
  // choice.
  m.def("wish_plan(str? schedule=None, str? weights=None, int? workers=None) -> ()");
}
