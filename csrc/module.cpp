// rnnfast._C: what a torch operator cannot return. No torch headers.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

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
      .def("__str__", &describe)
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
        problem.isa = isa_from_name(isa);
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

  m.def(
      "build_info",
      [] {
        py::dict info;
        info["version"] = RNNFAST_VERSION;
        info["torch"] = RNNFAST_BUILD_TORCH;
        info["compiler"] = __VERSION__;
        info["isas"] = RNNFAST_ISAS;
#if defined(_OPENMP)
        info["openmp"] = true;
#else
        info["openmp"] = false;
#endif
        info["cuda"] = false;
        return info;
      },
      "What the libraries were built with and for.");
}
