#include "reads.h"

#include <algorithm>

#include "../checks.h"

namespace vlae {

namespace {

constexpr int64_t kNobody = -2;

// True where what a stage reads is written behind it in a step, so that it has that of the step before. A pixel is written by
// the last draw; a stage behind the first one reads the channels of its own pixel that are drawn so far, and zeros.
bool is_later(const Plan& plan, int64_t stage, int64_t writer, const Tap& tap) {
  if (writer >= 0) return writer >= stage;
  const bool own = tap.dy == 0 && tap.dx == 0;
  return stage < (own ? plan.draws.front() : plan.draws.back()).after;
}

// The image counts as a stage of lead 0. A stage that others before it read may not run ahead: at the first step they would
// catch up with waves that it has not computed.
void check_read(const char* op, const Plan& plan, size_t stage, int64_t buffer, const Tap& tap, int64_t writer) {
  const bool later = is_later(plan, static_cast<int64_t>(stage), writer, tap);
  const int64_t lead = writer < 0 ? 0 : plan.stages[usize(writer)].lead;
  VLAE_CHECK(!later || lead <= 0, op, text("plan: lead of stage ", writer),
             text("be at most 0 where stage ", stage, " before it reads it"), lead);
  const int64_t latest = lead - tap.dx - plan.slope * tap.dy - later;
  VLAE_CHECK(plan.stages[stage].lead <= latest, op, text("plan: lead of stage ", stage),
             text("be at most ", latest, " to read buffer ", buffer, " at (", tap.dy, ", ", tap.dx, ")"),
             plan.stages[stage].lead);
}

// Throws where stages read each other in a circle, though each may read what stands behind it.
// wanted: the stages that each one reads.
void check_circles(const char* op, const std::vector<std::vector<size_t>>& wanted) {
  std::vector<bool> done(wanted.size());
  for (size_t left = wanted.size(); left > 0;) {
    const size_t before = left;
    for (size_t s = 0; s < wanted.size(); ++s)
      if (!done[s] && std::ranges::all_of(wanted[s], [&](size_t other) { return done[other]; })) done[s] = true, --left;
    VLAE_CHECK(left < before, op, "plan", "have no circle of stages", "one");
  }
}

}  // namespace

void place_phases(const char* op, Plan& plan) {
  const size_t buffers = plan.channels.size();
  plan.phases.resize(buffers);
  plan.strides.assign(buffers, 1);
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    const auto& [stride, row, column] = plan.stages[s].sites;
    const int64_t buffer = plan.written_by(s);
    const bool own = plan.stages[s].joins < 0;
    if (!own) {
      const std::string what = text("plan: joins of stage ", s);
      VLAE_CHECK(0 < buffer && buffer <= static_cast<int64_t>(s) && plan.stages[usize(buffer - 1)].joins < 0, op, what,
                 "be the own buffer of a stage before it", buffer);
      VLAE_CHECK(plan.strides[usize(buffer)] == stride && plan.channels[usize(buffer)] == plan.stages[s].out_channels, op, what,
                 text("have its stride, ", stride, ", and its ", plan.stages[s].out_channels, " channels"),
                 text("stride ", plan.strides[usize(buffer)], " and ", plan.channels[usize(buffer)]));
    }
    std::vector<int32_t>& phases = plan.phases[usize(buffer)];
    if (own) phases.assign(usize(stride * stride), kNobody), plan.strides[usize(buffer)] = stride;
    int32_t& writer = phases[usize(row * stride + column)];
    VLAE_CHECK(writer == kNobody, op, text("plan: sites of stage ", s), "be others than those of stages of its buffer",
               text("(", stride, ", ", row, ", ", column, ") of stage ", writer));
    writer = narrow<int32_t>(static_cast<int64_t>(s));
    if (!own) plan.phases[s + 1].assign(1, kNobody);  // nobody writes what would be its own
  }
}

void check_reads(const char* op, const Plan& plan) {
  std::vector<std::vector<size_t>> wanted(plan.stages.size());
  std::vector<size_t> reader(plan.stages.size(), plan.stages.size());  // the last stage found to read each one
  for (size_t s = 0; s < plan.stages.size(); ++s)
    for_reads(plan.stages[s], [&](int64_t buffer, const Tap& tap) {
      for_writers(plan, plan.stages[s].sites, buffer, tap, [&](int64_t writer) {
        VLAE_CHECK(writer != kNobody, op, text("plan: stage ", s), "read pixels that stages compute",
                   text("buffer ", buffer, " at (", tap.dy, ", ", tap.dx, ")"));
        if (writer < 0 || reader[usize(writer)] == s) return;
        reader[usize(writer)] = s;
        wanted[s].push_back(usize(writer));
      });
    });
  check_circles(op, wanted);
}

bool lands(const Tap& tap, int64_t height, int64_t width) {
  return -height < tap.dy && tap.dy < height && -width < tap.dx && tap.dx < width;
}

void check_schedule(const char* op, const Plan& plan, int64_t height, int64_t width) {
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    const auto check = [&](int64_t buffer, const Tap& tap) {
      if (lands(tap, height, width))
        for_writers(plan, plan.stages[s].sites, buffer, tap,
                    [&](int64_t writer) { check_read(op, plan, s, buffer, tap, writer); });
    };
    for_reads(plan.stages[s], check);
    if (plan.stages[s].kind != StageKind::attend) continue;
    // The last pixel of the row above comes last of all that attention sees, beside its own row.
    for (const size_t source : {size_t{1}, size_t{2}}) check(plan.stages[s].sources[source].buffer, {-1, width - 1});
  }
}

}  // namespace vlae
