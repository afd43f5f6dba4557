#include "plan/threads.h"

#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <thread>
#ifdef __linux__
#include <sched.h>
#endif

namespace fggp {
namespace {

int cores_of_affinity() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return static_cast<int>(std::thread::hardware_concurrency());
}

// The cores that one control group of Linux grants; infinity if it sets no limit.
double quota_of(const std::string& group) {
  double quota = 0, period = 0;
  std::ifstream file(group + "/cpu.max");  // version 2
  if (file) {
    file >> quota >> period;  // fails for "max"
  } else {
    std::ifstream(group + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(group + "/cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? quota / period : std::numeric_limits<double>::infinity();
}

// The least quota of this process's control groups and those above them.
double cpu_quota() {
  double quota = std::numeric_limits<double>::infinity();
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // number:controllers:path
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    if (controllers != ",," && controllers.find(",cpu,") == std::string::npos) continue;
    const std::string mount = controllers == ",," ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
    // In a container, the path may be that of the host. Then only the root of the mount exists.
    for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
      quota = std::min(quota, quota_of(mount + path));
      if (path.rfind('/') == std::string::npos) break;
    }
  }
  return quota;
}

}  // namespace

int usable_cores() {
  const double cores = std::min<double>(cores_of_affinity(), std::ceil(cpu_quota()));
  return std::max(1, static_cast<int>(cores));
}

}  // namespace fggp
