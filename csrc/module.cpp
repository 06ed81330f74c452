// rnnfast._C: what a torch operator cannot return. No torch headers.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>

#include "cuda/plan_cuda.h"
#include "plan.h"

namespace py = pybind11;
using namespace rnnfast;

PYBIND11_MODULE(_C, m) {
  m.doc() = "Plans and build facts of rnnfast's compiled libraries.";

  py::class_<Plan>(m, "Plan", "How a recurrence is run: schedule, workers, register tile, and why.")
      .def_property_readonly("schedule", [](const Plan& p) { return name(p.schedule); })
      .def_readonly("workers", &Plan::workers)
      .def_readonly("crew", &Plan::crew)
      .def_property_readonly("weights", [](const Plan& p) { return name(p.weights); })
      .def_property_readonly("tile",
                             [](const Plan& p) { return py::make_tuple(p.tile.rows, p.tile_columns); })
      .def_readonly("isa", &Plan::isa)
      .def_readonly("why", &Plan::why)
      .def("__str__", [](const Plan& p) { return describe(p); })
      .def("__repr__", [](const Plan& p) { return "Plan(" + describe(p) + ")"; });

  m.def(
      "plan",
      [](const std::string& cell, int64_t T, int64_t B, int64_t H, int64_t G, const std::string& dtype,
         const std::string& isa, int threads, int processors, const std::string& pass, bool initial,
         int64_t I, int64_t P) {
        Problem problem;
        problem.cell = cell_from_name(cell);
        problem.pass = pass_from_name(pass);
        problem.T = T, problem.B = B, problem.H = H, problem.G = G;
        problem.dtype = dtype_from_name(dtype);
        problem.isa = isa_from_name(isa), problem.bf16_dots = has_bf16_dots();
        problem.threads = threads;
        problem.processors = processors;
        problem.initial = initial;
        problem.I = I, problem.P = P;
        return plan(problem);
      },
      py::arg("cell"), py::arg("T"), py::arg("B"), py::arg("H"), py::arg("G") = 1,
      py::arg("dtype") = "float32", py::kw_only(), py::arg("isa"), py::arg("threads"), py::arg("processors"),
      py::arg("pass_") = "forward", py::arg("initial") = false, py::arg("I") = 0, py::arg("P") = 0,
      "The plan for a recurrence on a CPU with the given instruction set and number of threads.");

  py::class_<CudaPlan>(m, "CudaPlan", "How a recurrence is run on a GPU, and why.")
      .def_property_readonly("schedule", [](const CudaPlan& p) { return name(p.schedule); })
      .def_property_readonly("arithmetic", [](const CudaPlan& p) { return name(p.arithmetic); })
      .def_property_readonly("tile", [](const CudaPlan& p) { return py::make_tuple(p.rows, p.units); })
      .def_readonly("crew", &CudaPlan::crew)
      .def_readonly("cluster", &CudaPlan::cluster)
      .def_readonly("launches", &CudaPlan::launches)
      .def_readonly("blocks", &CudaPlan::blocks)
      .def_readonly("threads", &CudaPlan::threads)
      .def_readonly("shared_memory", &CudaPlan::shared_memory)
      .def_readonly("weight_registers", &CudaPlan::weight_registers)
      .def_readonly("microseconds", &CudaPlan::microseconds)
      .def_property_readonly("work",
                             [](const CudaPlan& p) {
                               py::dict work;
                               for (int i = 0; i < kKindsOfWork; ++i)
                                 if (const double count = p.work[static_cast<Work>(i)]; count > 0)
                                   work[work_costs()[static_cast<size_t>(i)].name] = count;
                               return work;
                             })
      .def_readonly("why", &CudaPlan::why)
      .def("__str__", [](const CudaPlan& p) { return describe(p); })
      .def("__repr__", [](const CudaPlan& p) { return "CudaPlan(" + describe(p) + ")"; });

  m.def(
      "plan_cuda",
      [](const std::string& cell, int64_t T, int64_t B, int64_t H, int64_t G, const std::string& dtype,
         int capability, int multiprocessors, int64_t shared_memory,
         const std::array<int, DeviceLimits::kClusterSizes>& clusters, const std::string& pass, bool tf32,
         int64_t P, int64_t beside, const std::optional<std::string>& schedule, std::optional<int> rows,
         std::optional<int> crew, const std::optional<std::string>& arithmetic, std::optional<int> cluster) {
        CudaProblem problem;
        problem.cell = cell_from_name(cell);
        problem.pass = pass_from_name(pass);
        problem.T = T, problem.B = B, problem.H = H, problem.G = G, problem.P = P;
        problem.dtype = dtype_from_name(dtype);
        problem.limits = {capability, multiprocessors, shared_memory};
        std::copy(clusters.begin(), clusters.end(), problem.limits.clusters);
        problem.tf32 = tf32, problem.beside = beside;
        if (schedule) problem.wish = cuda_schedule_from_name(*schedule);
        problem.wish_rows = rows, problem.wish_crew = crew, problem.wish_cluster = cluster;
        if (arithmetic) problem.wish_arithmetic = arithmetic_from_name(*arithmetic);
        return plan_cuda(problem);
      },
      py::arg("cell"), py::arg("T"), py::arg("B"), py::arg("H"), py::arg("G") = 1,
      py::arg("dtype") = "float32", py::kw_only(), py::arg("capability"), py::arg("multiprocessors"),
      py::arg("shared_memory"), py::arg("clusters"), py::arg("pass_") = "forward", py::arg("tf32") = false,
      py::arg("P") = 0, py::arg("beside") = 0, py::arg("schedule") = py::none(), py::arg("rows") = py::none(),
      py::arg("crew") = py::none(), py::arg("arithmetic") = py::none(), py::arg("cluster") = py::none(),
      "The plan for a recurrence on a GPU with the given limits, or one that is as wished as can be.");

  m.def(
      "cuda_work_cycles",
      [] {
        py::dict cycles;
        for (const WorkCost& cost : work_costs()) cycles[cost.name] = cost.cycles;
        return cycles;
      },
      "Cycles of each kind of work that times of plans are estimated from.");

  m.def(
      "build_info",
      [] {
        py::dict info;
        info["version"] = RNNFAST_VERSION;
        info["torch"] = RNNFAST_BUILD_TORCH;
        info["compiler"] = __VERSION__;
        info["isas"] = RNNFAST_ISAS;
        info["bf16_dots"] = has_bf16_dots();
#if defined(_OPENMP)
        info["openmp"] = true;
#else
        info["openmp"] = false;
#endif
        info["cuda"] = RNNFAST_CUDA;
        info["cuda_archs"] = RNNFAST_CUDA_ARCHS;
        return info;
      },
      "What the libraries were built with and for.");
}
