// Package replay sends a refused request again, one thing changed at a time, to learn why it is
// refused.
//
// Run first reproduces the refusal, then lets a planner choose the operator whose outcome tells most
// of the causes that are left apart, sends what it makes of the request, and holds the answer against
// the refusal. A change counts as proof when the request is refused without it, passes with it, and is
// refused again without it. Every request has a class of safety and two budgets: requests, and
// answers that are refusals.
package replay
