"""A scripted pynvml: the calls that nanobench makes, answered from a script instead of a driver.

The script is `SCRIPT` below, changed by the JSON file that the environment variable SCRIPTED_NVML names and by what a
test puts into `script`. For each call it has an answer:

* {"error": "GpuIsLost"}: the call raises NVMLError_GpuIsLost
* {"steps": [first, second, ...]}: one after the other, the last for good
* {"by": {"0": ..., "1": ...}}: by the call's argument after the handle
* any other dict: an object with these attributes; anything else: the value itself

"lost_after": so many calls about the device are answered, all later ones raise NVMLError_GpuIsLost.
"""

import json
import os
from collections import Counter
from types import SimpleNamespace

NVML_CLOCK_SM = 1
NVML_CLOCK_MEM = 2
NVML_TEMPERATURE_GPU = 0
NVML_PERF_POLICY_POWER = 0
NVML_PERF_POLICY_THERMAL = 1
NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
NVML_VOLATILE_ECC = 0
NVML_PSTATE_UNKNOWN = 32
nvmlMemory_v2 = 0x02000028
NVML_FI_DEV_POWER_INSTANT = 186

UUID = "GPU-8c8c1a5e-0000-1111-2222-333344445555"
SCRIPT = {
    "uuids": [UUID],
    "lost_after": None,
    "nvmlInit": None,
    "nvmlSystemGetDriverVersion": "570.86.15",
    "nvmlDeviceGetName": "NVIDIA H100 80GB HBM3",
    "nvmlDeviceGetUtilizationRates": {"gpu": 87, "memory": 40},
    "nvmlDeviceGetClockInfo": {"by": {"1": 1755, "2": 2619}},
    "nvmlDeviceGetPowerUsage": 412_500,
    "nvmlDeviceGetTemperature": 54,
    "nvmlDeviceGetMemoryInfo": {
        "total": 85_520_809_984,
        "reserved": 600_000_000,
        "free": 80_000_000_000,
        "used": 4_920_809_984,
    },
    "nvmlDeviceGetCurrentClocksEventReasons": 0x4,
    "nvmlDeviceGetCurrentClocksThrottleReasons": 0x4,
    "nvmlDeviceGetTotalEnergyConsumption": {"steps": [1_000_000, 1_012_500]},
    "nvmlDeviceGetViolationStatus": {
        "by": {
            "0": {
                "steps": [
                    {"referenceTime": 1, "violationTime": 5_000_000_000},
                    {"referenceTime": 2, "violationTime": 5_250_000_000},
                ]
            },
            "1": {"referenceTime": 1, "violationTime": 7_000_000_000},
        }
    },
    "nvmlDeviceGetTotalEccErrors": 0,
    "nvmlDeviceGetPowerManagementLimit": 700_000,
    "nvmlDeviceGetEnforcedPowerLimit": 650_000,
    "nvmlDeviceGetPowerManagementDefaultLimit": 700_000,
    "nvmlDeviceGetPowerManagementLimitConstraints": [200_000, 700_000],
    "nvmlDeviceGetMigMode": [0, 0],
    "nvmlDeviceGetEccMode": [1, 1],
    "nvmlDeviceGetPersistenceMode": 1,
    "nvmlDeviceGetPerformanceState": 0,
    "nvmlDeviceGetComputeRunningProcesses": [],
    "nvmlDeviceGetGraphicsRunningProcesses": [],
}
ERRORS = {
    1: ("Uninitialized", "Uninitialized"),
    2: ("InvalidArgument", "Invalid Argument"),
    3: ("NotSupported", "Not Supported"),
    6: ("NotFound", "Not Found"),
    9: ("DriverNotLoaded", "Driver Not Loaded"),
    12: ("LibraryNotFound", "NVML Shared Library Not Found"),
    13: ("FunctionNotFound", "Function Not Found"),
    15: ("GpuIsLost", "GPU is lost"),
}


class NVMLError(Exception):
    value = None

    def __str__(self):
        return ERRORS[self.value][1]


for _value, (_name, _) in ERRORS.items():
    globals()[f"NVMLError_{_name}"] = type(f"NVMLError_{_name}", (NVMLError,), {"value": _value})


def _error(name):
    return globals()[f"NVMLError_{name}"]()


def _written():
    path = os.environ.get("SCRIPTED_NVML")
    if not path:
        return {}
    with open(path) as file:
        return json.load(file)


script = {**SCRIPT, **_written()}
seen = Counter()
"""(call, its arguments after the handle) -> how often"""
_answered = 0
_ready = False


def _play(step, count, key):
    if isinstance(step, list):
        return [_play(each, count, key) for each in step]
    if not isinstance(step, dict):
        return step
    if "error" in step:
        raise _error(step["error"])
    if "steps" in step:
        return _play(step["steps"][min(count, len(step["steps"]) - 1)], count, key)
    if "by" in step:
        return _play(step["by"][key], count, key)
    return SimpleNamespace(**step)


def _answer(name, *args):
    global _ready
    count = seen[name, args]
    seen[name, args] += 1
    answer = _play(script[name], count, str(args[0]) if args else "")
    if name == "nvmlInit":
        _ready = True
    elif not _ready:
        raise _error("Uninitialized")
    return answer


def _of_device(name, handle, *args):
    global _answered
    assert handle.of_nvml, f"{name} wants a handle"
    _answered += 1
    if script["lost_after"] is not None and _answered > script["lost_after"]:
        raise _error("GpuIsLost")
    return _answer(name, *args)


def _handle(index):
    if not _ready:
        raise _error("Uninitialized")
    return SimpleNamespace(of_nvml=True, index=index)


def nvmlInit():
    return _answer("nvmlInit")


def nvmlSystemGetDriverVersion():
    return _answer("nvmlSystemGetDriverVersion")


def nvmlDeviceGetHandleByIndex(index):
    if not 0 <= index < len(script["uuids"]):
        raise _error("InvalidArgument")
    return _handle(index)


def nvmlDeviceGetHandleByUUID(uuid):
    if uuid not in script["uuids"]:
        raise _error("NotFound")
    return _handle(script["uuids"].index(uuid))


def nvmlDeviceGetName(handle):
    return _of_device("nvmlDeviceGetName", handle)


def nvmlDeviceGetUtilizationRates(handle):
    return _of_device("nvmlDeviceGetUtilizationRates", handle)


def nvmlDeviceGetClockInfo(handle, type):
    return _of_device("nvmlDeviceGetClockInfo", handle, type)


def nvmlDeviceGetFieldValues(handle, fieldIds):
    """Not in the script: a driver that does not have these fields."""
    assert fieldIds == [NVML_FI_DEV_POWER_INSTANT]
    raise _error("NotSupported")


def nvmlDeviceGetPowerUsage(handle):
    return _of_device("nvmlDeviceGetPowerUsage", handle)


def nvmlDeviceGetTemperature(handle, sensor):
    assert sensor == NVML_TEMPERATURE_GPU
    return _of_device("nvmlDeviceGetTemperature", handle)


def nvmlDeviceGetMemoryInfo(handle, version=None):
    assert version == nvmlMemory_v2
    return _of_device("nvmlDeviceGetMemoryInfo", handle)


def nvmlDeviceGetCurrentClocksEventReasons(handle):
    return _of_device("nvmlDeviceGetCurrentClocksEventReasons", handle)


def nvmlDeviceGetCurrentClocksThrottleReasons(handle):
    return _of_device("nvmlDeviceGetCurrentClocksThrottleReasons", handle)


def nvmlDeviceGetTotalEnergyConsumption(handle):
    return _of_device("nvmlDeviceGetTotalEnergyConsumption", handle)


def nvmlDeviceGetViolationStatus(device, perfPolicyType):
    return _of_device("nvmlDeviceGetViolationStatus", device, perfPolicyType)


def nvmlDeviceGetTotalEccErrors(handle, errorType, counterType):
    assert (errorType, counterType) == (NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC)
    return _of_device("nvmlDeviceGetTotalEccErrors", handle)


def nvmlDeviceGetPowerManagementLimit(handle):
    return _of_device("nvmlDeviceGetPowerManagementLimit", handle)


def nvmlDeviceGetEnforcedPowerLimit(handle):
    return _of_device("nvmlDeviceGetEnforcedPowerLimit", handle)


def nvmlDeviceGetPowerManagementDefaultLimit(handle):
    return _of_device("nvmlDeviceGetPowerManagementDefaultLimit", handle)


def nvmlDeviceGetPowerManagementLimitConstraints(handle):
    return _of_device("nvmlDeviceGetPowerManagementLimitConstraints", handle)


def nvmlDeviceGetMigMode(device):
    return _of_device("nvmlDeviceGetMigMode", device)


def nvmlDeviceGetEccMode(handle):
    return _of_device("nvmlDeviceGetEccMode", handle)


def nvmlDeviceGetPersistenceMode(handle):
    return _of_device("nvmlDeviceGetPersistenceMode", handle)


def nvmlDeviceGetPerformanceState(handle):
    return _of_device("nvmlDeviceGetPerformanceState", handle)


def nvmlDeviceGetComputeRunningProcesses(handle):
    return _of_device("nvmlDeviceGetComputeRunningProcesses", handle)


def nvmlDeviceGetGraphicsRunningProcesses(handle):
    return _of_device("nvmlDeviceGetGraphicsRunningProcesses", handle)
