! A coarray program: one-sided communication through OpenCoarrays, a real user of windows that stay locked for life.
!   coarray ROUNDS PAUSE
! Images exchange the borders of a field by puts, get a far image's middle, count in an atomic variable and in a critical
! section, wait for their neighbours, and add up. Whole numbers only: the result is the same on every library.
program coarray
  use iso_fortran_env
  use iso_c_binding
  implicit none
  interface
    subroutine usleep(microseconds) bind(c)
      import c_int
      integer(c_int), value :: microseconds
    end subroutine
  end interface
  integer, parameter :: cells = 200, long = int64
  integer(long), parameter :: prime = 2147483647_long
  integer(long), allocatable :: field(:)[:], next(:), far(:)
  integer(long) :: total[*], hash, counted, sum_here
  integer(atomic_int_kind) :: tickets[*], ticket
  integer :: me, images, left, right, i, round, rounds, pause
  character(32) :: text

  call get_command_argument(1, text)
  read (text, *) rounds
  call get_command_argument(2, text)
  read (text, *) pause
  me = this_image()
  images = num_images()
  left = merge(images, me - 1, me == 1)
  right = merge(1, me + 1, me == images)
  allocate (field(0:cells + 1)[*])
  allocate (next(cells), far(cells/2))
  do i = 0, cells + 1
    field(i) = mod(int(me, long)*7919_long + i*104729_long, prime)
  end do
  total = 0
  call atomic_define(tickets, 0)
  hash = me
  sync all

  do round = 1, rounds
    field(cells + 1)[left] = field(1)
    field(0)[right] = field(cells)
    sync all
    do i = 1, cells
      next(i) = mod(field(i - 1)*3_long + field(i) + field(i + 1)*5_long + round, prime)
    end do
    far = field(1:cells/2)[mod(me + round, images) + 1]
    call atomic_fetch_add(tickets[1], me, ticket)
    critical
      total[1] = total[1] + me*round
    end critical
    if (me < images) sync images(right)
    if (me > 1) sync images(left)
    sync all
    field(1:cells) = next
    sum_here = sum(next) + sum(far)
    call co_sum(sum_here)
    hash = mod(hash*31_long + sum_here, prime)
    if (pause > 0) call usleep(int(pause*1000, c_int))
    sync all
  end do

  call atomic_ref(ticket, tickets[1])
  counted = total[1]
  if (ticket /= rounds*images*(images + 1)/2) error stop 'the atomic counter is wrong'
  if (counted /= int(rounds, long)*(rounds + 1)/2*images*(images + 1)/2) error stop 'the critical section is not one'
  hash = mod(hash*31_long + sum(field(1:cells)), prime)
  call co_sum(hash)
  if (me == 1) write (output_unit, '(a,z16.16)') 'RESULT ', hash
end program
