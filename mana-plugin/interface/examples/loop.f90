! A computation that asks for its checkpoints itself.
!
!   gfortran .../share/mana/interface/fortran/mana.f90 loop.f90 -o loop
!   mana_launch ./loop [STEPS [MILLISECONDS]]
!
! Without mana it runs as well.
module loop_callbacks
  use, intrinsic :: iso_c_binding
  use mana
  implicit none
  integer, volatile :: told(3) = 0
contains
  subroutine count_event(event, data) bind(c)
    integer(c_int), value :: event
    type(c_ptr), value :: data
    told(event) = told(event) + 1
    if (c_associated(data)) told(event) = -1000
  end subroutine count_event
end module loop_callbacks

program loop
  use, intrinsic :: iso_c_binding
  use mana
  use loop_callbacks
  implicit none
  interface
     function usleep(microseconds) bind(c) result(r)
       import :: c_int
       integer(c_int), value :: microseconds
       integer(c_int) :: r
     end function usleep
  end interface
  integer :: steps, pause, step, i
  integer(c_int) :: r
  real(c_double) :: total
  real(c_double), allocatable, target :: scratch(:)
  character(len=32) :: text

  steps = argument(1, 100)
  pause = argument(2, 10)
  allocate(scratch(2**20))
  total = 0
  do i = 1, 3
     r = mana_on(int(i, c_int), count_event)
  end do
  r = mana_exclude(c_loc(scratch), int(8 * 2**20, c_size_t))
  do step = 1, steps
     r = mana_hold("one step")
     scratch = [(1.0_c_double / (i + step), i = 1, size(scratch))]
     total = total + sum(scratch)
     r = mana_release()
     if (step == steps / 2) then
        write(text, '(f24.12)') total
        r = mana_publish("sum", trim(adjustl(text)))
        r = mana_checkpoint(MANA_LEVEL_HIGHEST, MANA_WAIT)
        if (r == MANA_CONTINUED) write(*, '(a)') "half way: checkpoint taken"
        if (r == MANA_RESUMED) write(*, '(a)') "half way: resumed"
        flush(6)
     end if
     r = usleep(int(1000 * pause, c_int))
  end do
  r = mana_include(c_loc(scratch), int(8 * 2**20, c_size_t))
  if (mana_running()) write(*, '(a, i0, a, 3(1x, i0))') "restarts ", mana_restarts(), ", events", told
  write(*, '(a, es23.16)') "RESULT ", total

contains
  integer function argument(n, otherwise)
    integer, intent(in) :: n, otherwise
    character(len=20) :: word
    argument = otherwise
    if (command_argument_count() < n) return
    call get_command_argument(n, word)
    read(word, *) argument
  end function argument
end program loop
