// Plans a pass over tensors on a GPU and runs it.
#include <map>
#include <tuple>

#include "../cells/cell.h"
#include "../layer/backend.h"
#include "../layer/text.h"
#include "../library.h"
#include "dispatch.h"
#include "indices.h"
#include "kernels.h"
#include "products.h"

namespace rnnfast {
namespace {

using cuda::PassInfo;
using cuda::Run;

thread_local std::optional<CudaPlan> last_plan_run;
thread_local std::optional<CudaSchedule> wish;
thread_local std::optional<int> wish_rows, wish_crew, wish_cluster;
thread_local std::optional<Arithmetic> wish_arithmetic;

std::string last_cuda_plan() { return last_plan_run ? describe(*last_plan_run) : ""; }

void wish_cuda_plan(const std::optional<Text>& schedule, const std::optional<int64_t>& rows,
                    const std::optional<int64_t>& crew, const std::optional<Text>& arithmetic,
                    const std::optional<int64_t>& cluster) {
  const auto number = [](const std::optional<int64_t>& n) {
    return n ? std::optional(static_cast<int>(*n)) : std::nullopt;
  };
  wish = schedule ? std::optional(cuda_schedule_from_name(*schedule)) : std::nullopt;
  wish_rows = number(rows), wish_crew = number(crew), wish_cluster = number(cluster);
  wish_arithmetic = arithmetic ? std::optional(arithmetic_from_name(*arithmetic)) : std::nullopt;
}

int64_t cuda_clusters(int64_t device, int64_t size) {
  return cuda::limits_of(static_cast<int32_t>(device)).clusters_of(static_cast<int>(size));
}

int32_t torch_dtype(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return aoti_torch_dtype_float32();
    case Dtype::f64:
      return aoti_torch_dtype_float64();
    case Dtype::bf16:
      return aoti_torch_dtype_bfloat16();
    case Dtype::f16:
      break;
  }
  return aoti_torch_dtype_float16();
}

Dtype computed_with(Dtype dtype) { return dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32; }

// Memory that lies where `like` does, as a tensor.
Tensor tensor_at(const void* data, const Shape& sizes, const Shape& strides, Dtype dtype,
                 const Tensor& like) {
  AtenTensorHandle handle = nullptr;
  const bool done =
      aoti_torch_create_tensor_from_blob(
          const_cast<void*>(data), static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), 0,
          torch_dtype(dtype), device_type_of(like), device_index_of(like), &handle) == AOTI_TORCH_SUCCESS;
  require(done, "cannot see memory as a tensor of shape ", sizes);
  return Tensor(handle);
}

// W_ih x of all steps, in the dtype that is computed with: what forward passes have computed ahead.
class Projection {
 public:
  Projection(const Recurrence& r, Dtype dtype, const Tensor& like, std::optional<bool> tf32) {
    const Stream& x = r.streams[ForwardPlaces::kInput];
    const Matrix& w = r.matrices[ForwardPlaces::kWih];
    const int64_t K = w.rows, I = w.columns,
                  N = r.offsets ? r.offsets[r.T - 1] + r.counts[r.T - 1] : r.T * r.B;
    // Rows of x one behind the other, step by step, or, as batch_first has them, sequence by sequence.
    const bool by_steps = r.offsets || r.T == 1 || r.B == 1 || x.step == r.B * x.row;
    const int64_t apart = r.offsets || (by_steps && r.B > 1) || r.T == 1 ? x.row : x.step;
    Tensor rows = tensor_at(x.data, {N, I}, {apart, 1}, dtype, like);
    if (!by_steps && x.row != r.T * x.step) {
      const Tensor scattered = tensor_at(x.data, {r.B, r.T, I}, {x.row, x.step, 1}, dtype, like);
      rows = view_of(torch::stable::contiguous(scattered), {N, I}, {I, 1});
    }
    const Tensor weights = tensor_at(w.data, {I, r.G * K}, {1, w.row}, dtype, like);
    result_ = empty_contiguous({N, r.G * K}, like, torch_dtype(computed_with(dtype)));
    cuda::multiply(*result_, rows, weights, tf32);
    const int64_t row = r.G * K;
    stream_ = {result_->data_ptr(), K, by_steps ? r.B * row : row, by_steps ? row : r.T * row};
  }

  const Stream& stream() const { return stream_; }

 private:
  std::optional<Tensor> result_;
  Stream stream_;
};

// Squares of what a cell records, (N, G, units), where N is in the order of Recurrence::norms.
class Squares {
 public:
  Squares(const Recurrence& r, Dtype dtype, const Tensor& like)
      : units_(r.units[1] > 0 ? r.units[1] : r.units[0]),
        values_(empty_contiguous({r.positions(), units_}, like, torch_dtype(computed_with(dtype)))),
        norms_(tensor_at(r.norms.data, {r.positions()}, {1}, computed_with(dtype), like)) {
    const Stream& n = r.norms;
    stream_ = {values_.data_ptr(), n.group * units_, n.step * units_, n.row * units_};
  }

  const Stream& stream() const { return stream_; }

  void take_norms() {
    torch::stable::sum_out(norms_, values_, std::vector<int64_t>{1});
    cuda::call("aten::sqrt", "out", norms_, norms_);
  }

 private:
  int64_t units_;
  Tensor values_, norms_;
  Stream stream_;
};

// What a stepwise run works in, and its products.
class StepwiseArrays {
 public:
  StepwiseArrays(const Recurrence& r, const PassInfo& info, Dtype dtype, const Tensor& like,
                 std::optional<bool> tf32)
      : r_(r), info_(info), dtype_(dtype), like_(like) {
    const Dtype computed = computed_with(dtype);
    for (int i = 0; i < info.operands; ++i)
      for (int buffer = 0; buffer < 2; ++buffer)
        workspace_.operands[i][buffer] =
            add(operands_[i][buffer], info.operand[i].parts * r.units[info.operand[i].units], dtype);
    for (int i = 0; i < info.phases; ++i)
      if (info.phase[i].columns > 0)
        workspace_.results[i] =
            add(results_[i], info.phase[i].columns * r.units[info.phase[i].units], computed);
    for (int i = 0; i < info.carries; ++i) workspace_.carries[i] = add(carries_[i], r.most_units(), computed);
    if (info.statistics > 0) workspace_.sums = add(sums_, info.statistics, computed);
    for (int i = 0; i < info.phases; ++i)
      for (int buffer = 0; buffer < 2 && results_[i]; ++buffer)
        products_[i].emplace_back(*results_[i], *operands_[info.phase[i].operand][buffer], weights(i), tf32);
  }

  const cuda::Workspace& workspace() const { return workspace_; }

  void multiply(int phase, int buffer, int64_t rows) const { products_[phase][buffer].run(rows); }

 private:
  // Batches of matrices only where there are several groups.
  void* add(OptionalTensor& array, int64_t width, Dtype dtype) {
    const Shape shape = r_.G == 1 ? Shape{r_.B, width} : Shape{r_.G, r_.B, width};
    return array.emplace(empty_contiguous(shape, like_, torch_dtype(dtype))).data_ptr();
  }

  // As they stand on the right of the product: transposed, unless the phase wants that undone.
  Tensor weights(int phase) const {
    const Matrix& m = r_.matrices[info_.phase[phase].matrix];
    const bool as_is = info_.phase[phase].transposed;
    Shape sizes{as_is ? m.rows : m.columns, as_is ? m.columns : m.rows};
    Shape strides{as_is ? m.row : 1, as_is ? 1 : m.row};
    if (r_.G > 1) sizes.insert(sizes.begin(), r_.G), strides.insert(strides.begin(), m.group);
    return tensor_at(m.data, sizes, strides, dtype_, like_);
  }

  const Recurrence& r_;
  const PassInfo& info_;
  const Dtype dtype_;
  const Tensor& like_;
  OptionalTensor operands_[2][2], results_[cuda::kMostPhases], carries_[cuda::kMostCarries], sums_;
  std::vector<cuda::Product> products_[cuda::kMostPhases];  // of the two buffers
  cuda::Workspace workspace_;
};

// What the blocks of a grid's crews hand on their slices through. Zeroed in the stream, so that a CUDA graph
// does it at each replay.
class ExchangeArray {
 public:
  ExchangeArray(const CudaPlan& plan, const Tensor& like, cudaStream_t stream)
      : operands_(empty_contiguous({plan.exchange_bytes / 8}, like, aoti_torch_dtype_int64())) {
    const cudaError_t error =
        cudaMemsetAsync(operands_.data_ptr(), 0, static_cast<size_t>(plan.exchange_bytes), stream);
    require(error == cudaSuccess, "CUDA: cannot zero what blocks hand on: ", cudaGetErrorString(error));
  }

  cuda::Exchange exchange() const { return {static_cast<unsigned char*>(operands_.data_ptr())}; }

 private:
  Tensor operands_;
};

// As plan_cuda. All crews are tried in tens of microseconds, so that a thread keeps the plans that it made
// lately.
CudaPlan known_plan(const CudaProblem& p, int32_t device) {
  const auto key = std::make_tuple(device, p.cell, p.pass, p.dtype, p.T, p.B, p.H, p.P, p.G, p.tf32, p.beside,
                                   p.captured_packed, p.stride, p.noisy, p.wish, p.wish_rows, p.wish_crew,
                                   p.wish_cluster, p.wish_arithmetic);
  constexpr size_t kMost = 64;
  thread_local std::map<std::remove_const_t<decltype(key)>, CudaPlan> known;
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  if (known.size() == kMost) known.clear();
  return known[key] = plan_cuda(p);
}

CudaPlan plan_for(const Recurrence& r, Cell cell, Pass pass, Dtype dtype, const backend::OnGpu& on_gpu,
                  int32_t device, cudaStream_t stream) {
  CudaProblem problem;
  problem.cell = cell, problem.pass = pass, problem.dtype = dtype;
  problem.tf32 = on_gpu.tf32.value_or(false), problem.beside = on_gpu.beside;
  problem.T = r.T, problem.B = r.B, problem.H = r.units[0], problem.P = r.units[1], problem.G = r.G;
  problem.limits = cuda::limits_of(device);
  problem.captured_packed = r.offsets && cuda::is_captured(stream);
  for (const Stream& s : r.streams)
    if (s.data) problem.stride = std::max(problem.stride, r.offsets ? s.row : s.step);
  // What is computed ahead, and squares of norms, have the rows of a step, or of a sequence, behind one
  // another.
  problem.stride = std::max(problem.stride, std::max(r.B, int64_t{1}) * r.G * gates(cell) * r.units[0]);
  problem.noisy = r.noise.any();
  problem.wish = wish, problem.wish_arithmetic = wish_arithmetic;
  problem.wish_rows = wish_rows, problem.wish_crew = wish_crew, problem.wish_cluster = wish_cluster;
  return known_plan(problem, device);
}

cudaError_t run_planned(const Run& run, Cell cell, Pass pass, Dtype dtype, const CudaPlan& plan) {
  switch (cell) {
    case Cell::lstm:
      return run.recurrence.matrices[ForwardPlaces::kWhr].data
                 ? cuda::run_projected_lstm(run, pass, dtype, plan)
                 : cuda::run_lstm(run, pass, dtype, plan);
    case Cell::gru:
      return cuda::run_gru(run, pass, dtype, plan);
    case Cell::layer_norm_lstm:
      return cuda::run_layer_norm_lstm(run, pass, dtype, plan);
    case Cell::elman_tanh:
    case Cell::elman_relu:
      break;
  }
  return cuda::run_elman(run, cell, pass, dtype, plan);
}

}  // namespace

void backend::plan_and_run(const Recurrence& r, Cell cell, Pass pass, Dtype dtype, const Tensor& like,
                           const OnGpu& on_gpu) {
  require(!r.origins, "stretches: expected none on this device, where batches are packed instead");
  if (r.T == 0 || r.B == 0 || r.G == 0 || r.units[0] == 0) return;
  const int32_t device = device_index_of(like);
  const cuda::OnDevice on_device(device);
  Run run;
  run.recurrence = r;
  run.stream = cuda::stream_of(device);
  const CudaPlan plan = plan_for(r, cell, pass, dtype, on_gpu, device, run.stream);

  std::optional<Projection> projection;
  if (pass == Pass::forward && r.matrices[ForwardPlaces::kWih].data)
    run.computed = projection.emplace(r, dtype, like, on_gpu.tf32).stream();
  std::optional<Squares> squares;
  if (r.norms.data) run.computed = squares.emplace(r, dtype, like).stream();
  std::vector<Tensor> sizes;
  const PassInfo info = cuda::pass_info(cell, pass, r.units[1] > 0, r.noise.any());
  std::optional<StepwiseArrays> arrays;
  if (plan.schedule == CudaSchedule::stepwise) {
    run.workspace = arrays.emplace(r, info, dtype, like, on_gpu.tf32).workspace();
    run.multiply = [&](int phase, int buffer, int64_t rows) { arrays->multiply(phase, buffer, rows); };
  } else if (r.offsets) {
    for (const int64_t* numbers : {r.counts, r.offsets})
      sizes.push_back(cuda::indices(std::vector<int64_t>(numbers, numbers + r.T), like));
    run.counts = static_cast<const int64_t*>(sizes[0].data_ptr());
    run.offsets = static_cast<const int64_t*>(sizes[1].data_ptr());
  }
  std::optional<ExchangeArray> exchange;
  if (plan.schedule == CudaSchedule::grid) run.exchange = exchange.emplace(plan, like, run.stream).exchange();
  const cudaError_t error = run_planned(run, cell, pass, dtype, plan);
  if (squares && error == cudaSuccess) squares->take_norms();
  require(error == cudaSuccess, "CUDA: ", describe(plan), ": ", cudaGetErrorString(error));
  last_plan_run = plan;
}

}  // namespace rnnfast

RNNFAST_IMPLEMENT(CompositeExplicitAutograd, m) {
  m.impl("last_cuda_plan", TORCH_BOX(&rnnfast::last_cuda_plan));
  m.impl("wish_cuda_plan", TORCH_BOX(&rnnfast::wish_cuda_plan));
  m.impl("cuda_clusters", TORCH_BOX(&rnnfast::cuda_clusters));
}
