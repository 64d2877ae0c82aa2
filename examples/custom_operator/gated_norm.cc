// A native ONNX Runtime kernel for gating::GatedRMSNorm: y = x / rms(x) * weight * silu(gate), one pass over each row.
//
// The file of an exported model holds the same maths as a function of standard operators. ONNX Runtime prefers this kernel
// where the library is registered, and falls back to the function, in the same file, where it is not.

#define ORT_API_MANUAL_INIT  // the API comes from the process that loads this library, see RegisterCustomOps
#include <onnxruntime_cxx_api.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <vector>

namespace {

struct Rows {
  const float* x;
  const float* gate;
  const float* weight;
  float* y;
  size_t size;
  float eps;
};

void ComputeRow(void* data, size_t row) {
  const Rows& rows = *static_cast<Rows*>(data);
  const float* x = rows.x + row * rows.size;
  const float* gate = rows.gate + row * rows.size;
  float* y = rows.y + row * rows.size;
  float sum = 0;
  for (size_t i = 0; i < rows.size; ++i) sum += x[i] * x[i];
  const float scale = 1 / std::sqrt(sum / rows.size + rows.eps);
  for (size_t i = 0; i < rows.size; ++i) y[i] = x[i] * scale * rows.weight[i] * gate[i] / (1 + std::exp(-gate[i]));
}

class Kernel {
 public:
  explicit Kernel(const OrtKernelInfo* info) : eps_(Ort::ConstKernelInfo(info).GetAttribute<float>("eps")) {}

  OrtStatusPtr ComputeV2(OrtKernelContext* raw) {
    try {
      Compute(Ort::KernelContext(raw));
    } catch (const std::exception& error) {  // no exception may leave the library
      return Ort::GetApi().CreateStatus(ORT_FAIL, error.what());
    }
    return nullptr;
  }

 private:
  void Compute(Ort::KernelContext context) const {
    const auto x = context.GetInput(0), gate = context.GetInput(1), weight = context.GetInput(2);
    const std::vector<int64_t> shape = x.GetTensorTypeAndShapeInfo().GetShape();
    const size_t size = shape.empty() ? 0 : shape.back();
    const bool fits = size && gate.GetTensorTypeAndShapeInfo().GetShape() == shape &&
                      weight.GetTensorTypeAndShapeInfo().GetShape() == std::vector<int64_t>{shape.back()};
    if (!fits) ORT_CXX_API_THROW("GatedRMSNorm: expected x and gate of one shape (..., N) and weight (N)", ORT_INVALID_ARGUMENT);
    auto y = context.GetOutput(0, shape);
    Rows rows{x.GetTensorData<float>(), gate.GetTensorData<float>(), weight.GetTensorData<float>(),
              y.GetTensorMutableData<float>(), size, eps_};
    context.ParallelFor(ComputeRow, x.GetTensorTypeAndShapeInfo().GetElementCount() / size, 0, &rows);
  }

  float eps_;
};

struct GatedRMSNorm : Ort::CustomOpBase<GatedRMSNorm, Kernel, /*WithStatus=*/true> {
  OrtStatusPtr CreateKernelV2(const OrtApi&, const OrtKernelInfo* info, void** kernel) const {
    try {
      *kernel = new Kernel(info);
    } catch (const std::exception& error) {
      return Ort::GetApi().CreateStatus(ORT_FAIL, error.what());
    }
    return nullptr;
  }
  const char* GetName() const { return "GatedRMSNorm"; }
  size_t GetInputTypeCount() const { return 3; }
  ONNXTensorElementDataType GetInputType(size_t) const { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }
  size_t GetOutputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetOutputType(size_t) const { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }
};

}  // namespace

// What ONNX Runtime looks for in a library of custom operators. The C API grows and never changes, so a library runs on every
// ONNX Runtime that is as new as the headers it was built with, or newer.
extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (!api) return base->GetApi(1)->CreateStatus(ORT_FAIL, "this ONNX Runtime is older than the headers of the library");
  Ort::InitApi(api);
  try {
    static const GatedRMSNorm op;  // sessions keep pointers to both, so they live as long as the library
    static const Ort::CustomOpDomain domain = [] {
      Ort::CustomOpDomain created("gating");
      created.Add(&op);
      return created;
    }();
    Ort::UnownedSessionOptions(options).Add(domain);
  } catch (const std::exception& error) {
    return api->CreateStatus(ORT_FAIL, error.what());
  }
  return nullptr;
}
